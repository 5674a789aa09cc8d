local member, secret, holder, most, bound, profile, brief =
  next_arg(), next_arg(), next_arg(), next_arg(), tonumber(next_arg()), next_arg(), next_arg()
local word = open_all(member)
if not epoch then begin(0, tonumber(most)) end
local since, known
if word then since, known = of(member) end
if known == secret then
  local conn, last = taken_apart(word)
  if last == '-' then call('ZREM', leases, 'd:' .. member) end
  if last ~= holder then
    place(member, conn, holder)
    announce('a ' .. member .. ' - ' .. conn .. '\n')
  end
else
  local limit = max
  if limit == 0 or (bound > 0 and bound < limit) then limit = bound end
  if limit > 0 and count >= limit then reap() end
  if limit > 0 and count >= limit then
    index()
    return {'full', int(limit)}
  end
  -- one that takes another's place is no more
  if known and of(member) then count = count - 1 end
  come(member, profile, brief)
  enlist(member, '1', holder, seq, secret, profile)
end
hold(holder)
return view({'joined'})
