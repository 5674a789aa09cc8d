local member, secret, holder, max, bound, profile, rest =
  ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3], tonumber(ARGV[FIRST + 4]), ARGV[FIRST + 5],
  ARGV[FIRST + 6]
local brief = ARGV[FIRST + 7]
if not epoch then begin('0', max) end
local known = load(member)
if known and known.secret == secret then
  known.holder = holder
  save(member, known)
  redis.call('ZREM', leases, 'd:' .. member)
else
  local most = tonumber(redis.call('HGET', meta, 'max'))
  if most == 0 or (bound > 0 and bound < most) then most = bound end
  local function full()
    return most > 0 and redis.call('HLEN', members) >= most
  end
  if full() then reap() end
  if full() then
    index()
    return {'full', int(most)}
  end
  local since = append('j', member, '-', '-', rest, brief)
  save(member, {conn = '1', since = since, holder = holder, secret = secret, profile = profile})
end
hold(holder)
index()
return view({'joined'})
