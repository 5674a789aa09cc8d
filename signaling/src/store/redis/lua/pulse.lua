open()
if not epoch then return 'gone' end
clock()
if now >= aged + LOG_AGE then
  forget(old)
  old, aged, changed = last(), now, true
end
if not is_host(ME) then return 'lapsed ' .. epoch end
hold(ME)
index()
return 'kept ' .. epoch .. ' ' .. int(last())
