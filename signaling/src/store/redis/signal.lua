local from, conn, to, id, rest = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3], ARGV[FIRST + 4]
local no = refused(from, conn)
if no then return no end
local request = from .. ' ' .. id
local before = redis.call('HGET', seen, request) or redis.call('HGET', older, request)
if before then return {'before', before} end
if to ~= '-' and redis.call('HEXISTS', members, to) == 0 then return {'nobody'} end
local seq = append(redis.call('HGET', meta, 'epoch'), 's', from, to, id, rest)
if redis.call('HLEN', seen) >= SEEN then redis.call('RENAME', seen, older) end
redis.call('HSET', seen, request, seq)
return {'now', seq}
