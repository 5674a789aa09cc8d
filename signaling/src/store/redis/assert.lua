local holder, known_epoch, known_seq, max = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3]
local seq = tonumber(redis.call('HGET', meta, 'seq') or 0)
if not epoch or redis.call('HLEN', members) == 0 then
  begin(int(math.max(seq, tonumber(known_seq))), max)
elseif epoch == known_epoch and seq < tonumber(known_seq) then
  restart(known_seq)
end
-- A new life must come after every earlier one, also when the clock of a new Redis is behind.
if epoch ~= known_epoch and tonumber(epoch) < tonumber(known_epoch) then
  epoch = int(tonumber(known_epoch) + 1)
  redis.call('HSET', meta, 'epoch', epoch)
end
hold(holder)
for i = FIRST + 4, #ARGV, 7 do
  local member, conn = ARGV[i], ARGV[i + 1]
  local known = load(member)
  local ahead = known and tonumber(known.conn) - tonumber(conn)
  if not known or ahead < 0 or (ahead == 0 and known.holder == '-') then
    if not known then append('j', member, '-', '-', ARGV[i + 5], ARGV[i + 6]) end
    redis.call('ZREM', leases, 'd:' .. member)
    save(member, {conn = conn, since = ARGV[i + 2], holder = holder, secret = ARGV[i + 3], profile = ARGV[i + 4]})
  end
end
index()
return view({'view'})
