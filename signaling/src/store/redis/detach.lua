local member, conn, last = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2]
local m = load(member)
if not (conn == '0' and m and m.holder == ME) then
  local no = refused(member, conn)
  if no then return no end
end
m.holder = '-'
save(member, m)
redis.call('ZADD', leases, int(now + DETACHED_LEASE), 'd:' .. member)
unhost(last)
index()
return {'detached'}
