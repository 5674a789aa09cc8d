local holder, known_epoch, known_seq, max = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3]
local m = redis.call('HMGET', meta, 'epoch', 'seq')
local epoch, seq = m[1], tonumber(m[2] or 0)
if not epoch or redis.call('HLEN', members) == 0 then
  epoch = begin(int(math.max(seq, tonumber(known_seq))), max)
elseif epoch == known_epoch and seq < tonumber(known_seq) then
  epoch = fresh_epoch()
  redis.call('DEL', log)
  redis.call('HSET', meta, 'epoch', epoch, 'seq', known_seq, 'floor', known_seq, 'mark', known_seq,
    'marked', int(now))
end
-- A new life must come after every earlier one, also when the clock of a new Redis is behind.
if epoch ~= known_epoch and tonumber(epoch) < tonumber(known_epoch) then
  epoch = int(tonumber(known_epoch) + 1)
  redis.call('HSET', meta, 'epoch', epoch)
end
hold(holder)
for i = FIRST + 4, #ARGV, 6 do
  local member, conn = ARGV[i], ARGV[i + 1]
  local known = load(member)
  if not known or tonumber(known.conn) < tonumber(conn) then
    if not known then append(epoch, 'j', member, '-', '-', ARGV[i + 5]) end
    redis.call('ZREM', leases, 'd:' .. member)
    save(member, {conn = conn, since = ARGV[i + 2], holder = holder, secret = ARGV[i + 3], profile = ARGV[i + 4]})
  end
end
index()
return view({'view'})
