-- One server tells what its users hold, and learns what others' users hold.
-- KEYS: leases (zset: server -> when it ends), totals (zset: user -> held), what a server holds (hash, by prefix)
-- ARGV: server, lease in ms, the least that is worth telling, 1 for all users or 0 for changes, then user, held ...
local leases, totals, prefix = KEYS[1], KEYS[2], KEYS[3]
local server, lease, least, all = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = prefix .. server

local function add(user, n)
  if n ~= 0 and tonumber(redis.call('ZINCRBY', totals, n, user)) <= 0 then
    redis.call('ZREM', totals, user)
  end
end

local function forget(other)
  local held = redis.call('HGETALL', prefix .. other)
  for i = 1, #held, 2 do
    add(held[i], -tonumber(held[i + 1]))
  end
  redis.call('DEL', prefix .. other)
  redis.call('ZREM', leases, other)
end

for _, other in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
  forget(other)
end
if all then
  forget(server)
elseif not redis.call('ZSCORE', leases, server) then
  return false
end
redis.call('ZADD', leases, now + lease, server)
for i = 5, #ARGV, 2 do
  local user, held = ARGV[i], tonumber(ARGV[i + 1])
  add(user, held - tonumber(redis.call('HGET', mine, user) or 0))
  if held > 0 then
    redis.call('HSET', mine, user, held)
  else
    redis.call('HDEL', mine, user)
  end
end
-- nothing stays for ever when the last server has gone
for _, key in ipairs({leases, totals, mine}) do
  redis.call('EXPIRE', key, 3600)
end
local much = redis.call('ZREVRANGEBYSCORE', totals, '+inf', least, 'WITHSCORES', 'LIMIT', 0, 4096)
local others = {}
for i = 1, #much, 2 do
  local held = tonumber(much[i + 1]) - tonumber(redis.call('HGET', mine, much[i]) or 0)
  if held > 0 then
    table.insert(others, {much[i], held})
  end
end
return others
