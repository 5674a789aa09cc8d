if not epoch then return {'gone'} end
local m = redis.call('HMGET', meta, 'seq', 'aged')
if now >= m[2] + LOG_AGE then
  forget('old', m[1])
  redis.call('HSET', meta, 'aged', int(now))
end
if not redis.call('ZSCORE', leases, 'r:' .. ME) then return {'lapsed', epoch} end
hold(ME)
index()
return {'kept', epoch, m[1]}
