open_all()
if not epoch then return 'gone' end
clock()
if now >= aged + LOG_AGE then
  forget(old)
  old, aged = seq, now
end
if not is_host(ME) then return 'lapsed ' .. epoch end
call('ZADD', leases, int(now + REPLICA_LEASE), 'r:' .. ME)
index()
return 'kept ' .. epoch .. ' ' .. seq
