local member, secret, holder, epoch, seq =
  ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3], ARGV[FIRST + 4]
local m = load(member)
if not m or m.secret ~= secret then return {'unknown'} end
m.conn = int(m.conn + 1)
m.holder = holder
save(member, m)
redis.call('ZREM', leases, 'd:' .. member)
hold(holder)
index()
append('a', member, '-', m.conn, '')
return read(epoch, seq, view({'resumed', m.conn, m.since}))
