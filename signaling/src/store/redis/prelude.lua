-- What every script of a room begins with. One room per call; all its keys have the same hash tag.
local meta, members, leases, log, seen, older, due, news =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
-- ME: the replica that calls. LIFE: of the data of this server; it ends when a replica takes over, or with a
-- restart. LIVES: of all servers that have rooms now.
local room, ME, LIFE, LIVES, PUBLISH, CHANNEL = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local LOG_ENTRIES, LOG_AGE, LOG_BYTES = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local SEEN, REPLICA_LEASE, DETACHED_LEASE = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local NEWS = tonumber(ARGV[13])
local FIRST = 14 -- the script's own arguments begin here

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch, life = unpack(redis.call('HMGET', meta, 'epoch', 'life'))
-- what this call appended, for those on the replica that calls
local written = {}

local function int(n)
  return string.format('%.0f', n)
end

-- Microseconds, so that two lives of a room never share an epoch; below 2^53 until the year 2255.
local function fresh_epoch()
  return time[1] .. string.format('%06d', time[2])
end

local function load(member)
  local record = redis.call('HGET', members, member)
  if not record then return nil end
  local conn, since, holder, secret, profile = string.match(record, '^(%d+) (%d+) (%S+) (%S+)\n(.*)$')
  return {conn = conn, since = since, holder = holder, secret = secret, profile = profile}
end

local function save(member, m)
  redis.call('HSET', members, member,
    m.conn .. ' ' .. m.since .. ' ' .. m.holder .. ' ' .. m.secret .. '\n' .. m.profile)
end

local function hold(holder)
  redis.call('ZADD', leases, int(now + REPLICA_LEASE), 'r:' .. holder)
end

-- The index of rooms: when each has to be looked at for leases that have run out.
local function index()
  local first = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', due, first[2], room)
  else
    redis.call('ZREM', due, room)
  end
end

local TYPES = {s = 'signal', j = 'member-joined', l = 'member-left'}

-- The replicas that host the room, less the one that calls: that one has the answer.
local hosts
local function others()
  if not hosts then
    hosts = {}
    for _, lease in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
      if string.sub(lease, 1, 2) == 'r:' and lease ~= 'r:' .. ME then
        hosts[#hosts + 1] = CHANNEL .. string.sub(lease, 3)
      end
    end
  end
  return hosts
end

-- Entries up to the last mark of this kind are forgotten, and the next ones go on from here: so the log has
-- between one and two times what is kept.
local function forget(mark, seq)
  local m = redis.call('HMGET', meta, mark, 'floor')
  local floor = int(math.max(tonumber(m[1]), tonumber(m[2])))
  redis.call('HSET', meta, 'floor', floor, mark, seq)
  redis.call('XTRIM', log, 'MINID', int(floor + 1) .. '-0')
end

-- Who came or went, for webhooks: one step with the log, so that neither is without the other. Numbered, so
-- that who reads it sees what was lost.
local function note(record, count)
  if NEWS == 0 then return end
  local last = redis.call('XREVRANGE', news, '+', '-', 'COUNT', 1)[1]
  redis.call('XADD', news, 'MAXLEN', NEWS, '*', 'n', int(last and last[2][2] + 1 or 1), 'at', int(now),
    'room', room, 'members', int(count), 'e', record)
end

-- Gives the next number, writes the log, tells those who listen.
local function append(kind, from, to, id, rest, brief)
  local seq = int(redis.call('HINCRBY', meta, 'seq', 1))
  local frame = ''
  if rest ~= '' then
    frame = '{"type":"' .. TYPES[kind] .. '","epoch":' .. epoch .. ',"seq":' .. seq .. ',' .. rest
  end
  local header = kind .. ' ' .. epoch .. ' ' .. seq .. ' ' .. from .. ' ' .. to .. ' ' .. id .. '\n'
  local record = header .. frame
  redis.call('XADD', log, 'MAXLEN', '~', LOG_ENTRIES, seq .. '-0', 'e', record)
  if redis.call('HINCRBY', meta, 'bytes', #rest) * 2 >= LOG_BYTES then
    forget('heavy', seq)
    redis.call('HSET', meta, 'bytes', '0')
  end
  for _, other in ipairs(others()) do redis.call(PUBLISH, other, room .. '\n' .. record) end
  -- one that comes is counted among the members afterwards, one that goes was before
  if kind == 'j' then note(header .. brief, redis.call('HLEN', members) + 1) end
  if kind == 'l' then note(header, redis.call('HLEN', members)) end
  -- who sends knows what
  if kind ~= 's' then written[#written + 1] = record end
  return seq
end

local function remove(member, reason)
  redis.call('ZREM', leases, 'd:' .. member)
  if redis.call('HDEL', members, member) == 1 then
    append('l', member, '-', reason, '"member":"' .. member .. '","reason":"' .. reason .. '"}')
  end
end

local function reap()
  local over = {}
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now))) do
    redis.call('ZREM', leases, lease)
    over[lease] = true
    hosts = nil
  end
  if not next(over) then return end
  local lost = {}
  for _, member in ipairs(redis.call('HKEYS', members)) do
    local m = load(member)
    if over['d:' .. member] or over['r:' .. m.holder] then
      lost[#lost + 1] = {since = tonumber(m.since), member = member}
    end
  end
  -- the oldest first, so that every store tells it alike
  table.sort(lost, function(a, b)
    if a.since ~= b.since then return a.since < b.since end
    return a.member < b.member
  end)
  for _, who in ipairs(lost) do remove(who.member, 'lost') end
end

-- A room that nobody is in is over.
local function tidy()
  if redis.call('HLEN', members) == 0 then
    redis.call('DEL', meta, members, leases, log, seen, older)
    redis.call('ZREM', due, room)
  else
    index()
  end
end

-- epoch, seq, then three values a member
local function view(out)
  out[#out + 1] = epoch
  out[#out + 1] = redis.call('HGET', meta, 'seq')
  local ids = redis.call('HKEYS', members)
  out[#out + 1] = int(#ids)
  for _, id in ipairs(ids) do
    local m = load(id)
    out[#out + 1] = id
    out[#out + 1] = m.since
    out[#out + 1] = m.profile
  end
  return out
end

-- 'known' and every entry after seq, or 'lost'
local function read(known_epoch, seq, out)
  local m = redis.call('HMGET', meta, 'seq', 'floor')
  local head, wanted = tonumber(m[1] or 0), tonumber(seq)
  if epoch ~= known_epoch or wanted > head or wanted < math.max(tonumber(m[2]), head - LOG_ENTRIES) then
    out[#out + 1] = 'lost'
    return out
  end
  out[#out + 1] = 'known'
  if wanted < head then
    for _, entry in ipairs(redis.call('XRANGE', log, int(wanted + 1) .. '-0', '+')) do
      out[#out + 1] = entry[2][2]
    end
  end
  return out
end

-- The log begins anew.
local function restart(seq)
  local fresh = fresh_epoch()
  -- after every earlier one, also when the clock of a new server is behind
  if epoch and tonumber(fresh) <= tonumber(epoch) then fresh = int(tonumber(epoch) + 1) end
  epoch = fresh
  redis.call('DEL', log)
  redis.call('HSET', meta, 'epoch', epoch, 'life', LIFE, 'seq', seq, 'floor', seq, 'old', seq,
    'aged', int(now), 'heavy', seq, 'bytes', '0')
end

local function begin(seq, max)
  redis.call('DEL', members, leases, seen, older)
  restart(seq)
  redis.call('HSET', meta, 'max', max)
end

-- A server that took over from another may lack the end of its log: what clients were told last. So the log
-- begins anew, and replicas say who is there; who is not claimed was gone.
local function take_over()
  local ids = redis.call('HKEYS', members)
  redis.call('DEL', leases)
  for _, id in ipairs(ids) do
    local m = load(id)
    m.holder = '-'
    save(id, m)
    redis.call('ZADD', leases, int(now + DETACHED_LEASE), 'd:' .. id)
  end
  restart(redis.call('HGET', meta, 'seq'))
  index()
end

if epoch and life ~= LIFE then
  if life and string.find(LIVES, life, 1, true) then
    -- it was moved here from a server that lives: whole
    redis.call('HSET', meta, 'life', LIFE)
  else
    take_over()
  end
end

-- nil, or why this connection may not write
local function refused(member, conn)
  local m = load(member)
  if not m then return {'unknown'} end
  if m.conn ~= conn then return {'superseded'} end
  return nil
end

-- 0 stands for whichever connection the session has: its writer has shown the secret
local function which(member, conn)
  local m = conn == '0' and load(member)
  return m and m.conn or conn
end

-- Appends a signal, unless the same request was appended before, or nobody is there to get it.
local function pass(from, to, id, rest, somebody)
  local request = from .. ' ' .. id
  local before = redis.call('HGET', seen, request) or redis.call('HGET', older, request)
  if before then return {'before', before} end
  if not somebody() then return {'nobody'} end
  local seq = append('s', from, to, id, rest)
  if redis.call('HLEN', seen) >= SEEN then redis.call('RENAME', seen, older) end
  redis.call('HSET', seen, request, seq)
  return {'now', epoch, seq}
end

-- The replica that calls has nobody here any more, as far as it knows.
local function unhost(last)
  if last ~= '1' then return end
  for _, member in ipairs(redis.call('HKEYS', members)) do
    if load(member).holder == ME then return end
  end
  redis.call('ZREM', leases, 'r:' .. ME)
end

-- What was appended, then the answer.
local function finish(answer)
  local out = {int(#written)}
  for _, record in ipairs(written) do out[#out + 1] = record end
  for _, word in ipairs(answer) do out[#out + 1] = word end
  return out
end

