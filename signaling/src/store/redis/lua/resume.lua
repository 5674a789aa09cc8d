local member, secret, holder, known_epoch, wanted =
  next_arg(), next_arg(), next_arg(), next_arg(), next_arg()
local word = open_all(member)
if not epoch or not word then return 'unknown' end
local since, known_secret = of(member)
if known_secret ~= secret then return 'unknown' end
local conn, last = taken_apart(word)
conn = int(conn + 1)
place(member, conn, holder)
if last == '-' then call('ZREM', leases, 'd:' .. member) end
hold(holder)
announce('a ' .. member .. ' - ' .. conn .. '\n')
return read(known_epoch, wanted, view({'resumed', conn, since}))
