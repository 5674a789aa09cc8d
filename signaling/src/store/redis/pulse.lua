local holder = ARGV[FIRST]
local m = redis.call('HMGET', meta, 'epoch', 'seq', 'mark', 'marked', 'floor')
if not m[1] then return {'gone'} end
if now >= m[4] + LOG_AGE then
  local floor = math.max(tonumber(m[3]), tonumber(m[5]))
  redis.call('HSET', meta, 'floor', int(floor), 'mark', m[2], 'marked', int(now))
  redis.call('XTRIM', log, 'MINID', int(floor + 1) .. '-0')
end
if not redis.call('ZSCORE', leases, 'r:' .. holder) then return {'lapsed', m[1]} end
hold(holder)
index()
return {'kept', m[1], m[2]}
