-- What every script of a room begins with. One room per call; all its keys have the same hash tag.
local meta, members, leases, log, seen, older, due =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local room, channel = ARGV[1], ARGV[2]
local LOG_ENTRIES, LOG_AGE, SEEN = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local REPLICA_LEASE, DETACHED_LEASE = tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST = 8 -- the script's own arguments begin here

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

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

-- Gives the next number, writes the log, tells those who listen.
local function append(epoch, kind, from, to, id, rest)
  local seq = int(redis.call('HINCRBY', meta, 'seq', 1))
  local frame = ''
  if rest ~= '' then
    frame = '{"type":"' .. TYPES[kind] .. '","epoch":' .. epoch .. ',"seq":' .. seq .. ',' .. rest
  end
  local record = kind .. ' ' .. epoch .. ' ' .. seq .. ' ' .. from .. ' ' .. to .. ' ' .. id .. '\n' .. frame
  redis.call('XADD', log, 'MAXLEN', '~', LOG_ENTRIES, seq .. '-0', 'e', record)
  redis.call('PUBLISH', channel, record)
  return seq
end

local function remove(epoch, member, reason)
  redis.call('ZREM', leases, 'd:' .. member)
  if redis.call('HDEL', members, member) == 1 then
    append(epoch, 'l', member, '-', reason, '"member":"' .. member .. '","reason":"' .. reason .. '"}')
  end
end

local function reap(epoch)
  local over = {}
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now))) do
    redis.call('ZREM', leases, lease)
    over[lease] = true
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
  for _, who in ipairs(lost) do remove(epoch, who.member, 'lost') end
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
  local m = redis.call('HMGET', meta, 'epoch', 'seq')
  out[#out + 1] = m[1]
  out[#out + 1] = m[2]
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
local function read(epoch, seq, out)
  local m = redis.call('HMGET', meta, 'epoch', 'seq', 'floor')
  local head, wanted = tonumber(m[2] or 0), tonumber(seq)
  if m[1] ~= epoch or wanted > head or wanted < math.max(tonumber(m[3]), head - LOG_ENTRIES) then
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

local function begin(seq, max)
  local epoch = fresh_epoch()
  redis.call('DEL', members, leases, log, seen, older)
  redis.call('HSET', meta, 'epoch', epoch, 'seq', seq, 'max', max, 'floor', seq, 'mark', seq, 'marked', int(now))
  return epoch
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
  local seq = append(redis.call('HGET', meta, 'epoch'), 's', from, to, id, rest)
  if redis.call('HLEN', seen) >= SEEN then redis.call('RENAME', seen, older) end
  redis.call('HSET', seen, request, seq)
  return {'now', seq}
end
