-- What the acts on a room have in common. A library is compiled once, so that a call makes no closures: what belongs
-- to a call, and to the room that a write of it is about, is in these variables.

-- Of Redis and Lua, which a library sees only while a function of it runs.
local call, try, floor, format, find, match, sub, pack, unpack_record
local function bind()
  call, try, floor, format, find, match, sub = redis.call, redis.pcall, math.floor, string.format, string.find, string.match, string.sub
  pack, unpack_record = struct.pack, struct.unpack
end

-- ME: the replica that calls. LIFE: of the data of this server; it ends when a replica takes over, or with a
-- restart. LIVES: of all servers that have rooms now. CHANNEL: what the channels of replicas begin with.
-- NEWS: how many of a partition are kept.
local ME, LIFE, LIVES, CHANNEL, NEWS
-- The arguments, which one was taken last, and what is sent to which replica when all is done: of each entry the separator
-- (no JSON has it, as in RFC 7464, nor a name), the room's first key and its epoch; seq; and the entry itself.
local args, arg, boxes
local now, fresh

-- Keys. The log has the entries after `base`, and no others; those up to `below` are forgotten. It is a stream, and the id of an
-- entry is the epoch and the number: replicas append to it by themselves too (see `known.rs`).
local meta, log, room, part, members, leases, seen, older, due, news
-- The room's record, and the replicas with a lease: what `leases` has under `r:`, as one word.
local epoch, life, base, hosts
-- The rest of it. `old` and `heavy` mark what is forgotten next, by age (looked at in `aged`) and by weight.
-- `count`: of members.
local seq, aged, old, heavy, below, count, max
local RECORD, REST = '>c16c20I6', '>I6I6I6I6I4I4'
-- Whether they have to be written, and other fields of `meta` that have to.
local changed, rest_changed, fields
-- What was appended, for those on the replica that calls; and what other replicas are sent before each entry.
local written, prefix

local act = {}

local function next_arg()
  arg = arg + 1
  return args[arg]
end

-- Most numbers are small, and printing one costs more than all else that is done with it.
local printed, PRINTED = {}, 256
local function int(n)
  local text = printed[n]
  if not text then
    text = format('%.0f', n)
    if n < PRINTED then printed[n] = text end
  end
  return text
end

local function id(number)
  return epoch .. '-' .. int(number)
end

-- A room's first key is that of its record. The others are made of it: they have its hash tag, so they are where it is.
local function all_keys(first)
  meta = first
  local at = find(meta, ':meta:', 1, true)
  part, room = sub(meta, 1, at), sub(meta, at + 6)
  log, members, leases = part .. 'log:' .. room, part .. 'members:' .. room, part .. 'leases:' .. room
  seen, older = part .. 'seen:' .. room, part .. 'older:' .. room
  due, news = part .. 'due', part .. 'news'
end

local function clock()
  if now then return end
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
  -- Microseconds, so that two lives of a room never share an epoch; below 2^53 until the year 2255.
  fresh = time[1] .. format('%06d', time[2])
end

local function put(field, value)
  fields = fields or {}
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end

local function save()
  if changed then put('r', pack(RECORD, epoch, life, base)) end
  if rest_changed then put('c', pack(REST, aged, old, heavy, below, count, max)) end
  if fields then call('HSET', meta, unpack(fields)) end
  changed, rest_changed, fields = false, false, nil
end

-- The replicas in a word of hosts. Few words are in use at a time, and each is taken apart once.
local known, known_count = {}, 0
local function split(word)
  local names = known[word]
  if not names then
    names = {}
    for name in string.gmatch(word, '%S+') do names[#names + 1] = name end
    if known_count >= 4096 then known, known_count = {}, 0 end
    known[word], known_count = names, known_count + 1
  end
  return names
end

local function set_hosts(word)
  hosts = word
  put('h', hosts)
end

local function is_host(name)
  if hosts == name then return true end
  for _, host in ipairs(split(hosts)) do
    if host == name then return true end
  end
  return false
end

-- Replicas for which this holds stay.
local function keep_hosts(stays)
  local left = {}
  for _, host in ipairs(split(hosts)) do
    if stays(host) then left[#left + 1] = host end
  end
  set_hosts(table.concat(left, ' '))
end

-- What a room says of a member: in `members` what stays so for as long as the session, in `meta` which
-- connection it has, and where.
local function place(member, conn, holder)
  put(member, conn .. ' ' .. holder)
end

local function taken_apart(word)
  return match(word, '^(%d+) (%S+)$')
end

-- Calls with each member, its connection and its holder.
local function each(visit)
  if fields then save() end
  local all = call('HGETALL', meta)
  for i = 1, #all, 2 do
    if #all[i] > 1 then visit(all[i], taken_apart(all[i + 1])) end
  end
end

local function enlist(member, conn, holder, since, secret, profile)
  call('HSET', members, member, since .. ' ' .. secret .. '\n' .. profile)
  place(member, conn, holder)
end

-- since, secret
local function of(member)
  local record = call('HGET', members, member)
  if record then return match(record, '^(%d+) (%S+)\n') end
end

-- The index of rooms: when each has to be looked at for leases that have run out. No later than that.
local function look_at(score)
  call('ZADD', due, 'LT', int(score), room)
end

local function index()
  local first = call('ZRANGE', leases, 0, 0, 'WITHSCORES')
  if first[2] then
    call('ZADD', due, first[2], room)
  else
    call('ZREM', due, room)
  end
end

local function hold(holder)
  clock()
  call('ZADD', leases, int(now + REPLICA_LEASE), 'r:' .. holder)
  -- the leases of other replicas do not last longer
  if hosts == '' then look_at(now + REPLICA_LEASE) end
  if not is_host(holder) then set_hosts(hosts == '' and holder or hosts .. ' ' .. holder) end
end

local function await(member)
  clock()
  call('ZADD', leases, int(now + DETACHED_LEASE), 'd:' .. member)
  look_at(now + DETACHED_LEASE)
end

-- Entries up to this one are no longer kept.
local function trim(to)
  if to <= base then return end
  call('XTRIM', log, 'MINID', id(to + 1))
  base, changed = to, true
end

-- Entries up to the last mark of a kind are forgotten, and the next ones go on from here: so the log has
-- between one and two times what is kept.
local function forget(mark)
  below, rest_changed = math.max(mark, below), true
  trim(below)
end

local function read_rest(word)
  aged, old, heavy, below, count, max = unpack_record(REST, word)
end

local function before_entries()
  prefix = prefix or '\30' .. meta .. '\n' .. epoch .. ' '
  return prefix
end

-- For all of these but the replica that calls, which has the answer.
local function pack_for(names, before_it, number, entry)
  for i = 1, #names do
    local host = names[i]
    if host ~= ME then
      local box = boxes[host]
      if not box then
        box = {n = 0}
        boxes[host] = box
      end
      local n = box.n
      box[n + 1], box[n + 2], box[n + 3], box.n = before_it, number, entry, n + 3
    end
  end
end

-- The log begins anew.
local function restart(from)
  clock()
  local last = epoch
  epoch = fresh
  -- after every earlier one, also when the clock of a new server is behind
  if last and tonumber(epoch) <= tonumber(last) then epoch = int(tonumber(last) + 1) end
  call('DEL', log)
  put('b', '0')
  life, seq, base, below, old, heavy, aged = LIFE, from, from, from, from, from, now
  prefix = nil
  changed, rest_changed = true, true
end

-- Gives the next number, writes the log, tells the other replicas that host the room.
local function append(entry)
  local added = try('XADD', log, id(seq + 1), 'e', entry)
  if type(added) == 'table' then
    local last = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    if not last then error(added) end
    -- there are gaps in it, so it is none
    if not old then read_rest(call('HGET', meta, 'c')) end
    restart(math.max(seq, tonumber(match(last[1], '%d+$'))))
    call('XADD', log, id(seq + 1), 'e', entry)
  end
  seq = seq + 1
  if #entry >= LIGHT then
    local bytes = call('HINCRBY', meta, 'b', #entry)
    if bytes * 2 >= LOG_BYTES then
      if not heavy then read_rest(call('HGET', meta, 'c')) end
      forget(heavy)
      heavy = seq
      put('b', '0')
    end
  end
  if seq - base >= LOG_ENTRIES * 2 then trim(seq - LOG_ENTRIES) end
  if hosts ~= ME then
    pack_for(split(hosts), before_entries(), int(seq), entry)
  end
end

local function position()
  return epoch .. ' ' .. int(seq)
end

-- Where a signal is, and what the replica that calls has to know to go on by itself: how many entries may come before a function
-- has to look at the log's bounds (- when nothing is published to this replica), and who is published to.
local function at()
  return 'at ' .. position() .. ' ' .. (is_host(ME) and int(LOG_ENTRIES * 2 - (seq - base)) or '-') .. ' ' .. hosts
end

-- The same, of what is told to those on the replica that calls too: who sends knows what. Who came or went is for
-- webhooks too: one step with the log, so that neither is without the other. Numbered, so that who reads it sees what
-- was lost.
local function announce(entry, brief)
  append(entry)
  written = written or {}
  written[#written + 1] = position() .. ' ' .. entry
  if brief and NEWS > 0 and not find(room, '\31', 1, true) then
    clock()
    local last = call('XREVRANGE', news, '+', '-', 'COUNT', 1)[1]
    call('XADD', news, 'MAXLEN', NEWS, '*', 'n', int(last and last[2][2] + 1 or 1), 'at', int(now), 'room', room,
      'members', int(count), 'e', position() .. ' ' .. match(entry, '^[^\n]*\n') .. brief)
  end
end

-- `since` is for one that has only now become a member
local function come(member, profile, brief)
  count, rest_changed = count + 1, true
  announce('j ' .. member .. ' - -\n' .. profile, brief)
end

-- `last`: who is removed takes the room along (`tidy`).
local function remove(member, holder, reason, last)
  if not last then
    if holder == '-' then call('ZREM', leases, 'd:' .. member) end
    call('HDEL', members, member)
    call('HDEL', meta, member)
  end
  count, rest_changed = count - 1, true
  announce('l ' .. member .. ' - ' .. reason .. '\n', '')
end

-- The oldest first, so that every store tells it alike.
local function remove_all(those, reason)
  for _, who in ipairs(those) do who.since = tonumber((of(who.member))) or 0 end
  table.sort(those, function(a, b)
    if a.since ~= b.since then return a.since < b.since end
    return a.member < b.member
  end)
  for _, who in ipairs(those) do remove(who.member, who.holder, reason) end
end

local function reap()
  clock()
  local over, any, lost = {}, false, {}
  for _, lease in ipairs(call('ZRANGEBYSCORE', leases, '-inf', int(now))) do
    call('ZREM', leases, lease)
    over[lease], any = true, true
  end
  if not any then return end
  keep_hosts(function(host) return not over['r:' .. host] end)
  each(function(member, _, holder)
    if over['d:' .. member] or over['r:' .. holder] then lost[#lost + 1] = {member = member, holder = holder} end
  end)
  remove_all(lost, 'lost')
end

-- A room that nobody is in is over.
local function tidy()
  if epoch and count > 0 then return false end
  call('DEL', meta, members, leases, log, seen, older)
  call('ZREM', due, room)
  epoch = nil
  return true
end

-- epoch, seq, how many members, then each with its record
local function view(out)
  out[#out + 1] = epoch
  out[#out + 1] = int(seq)
  local all = call('HGETALL', members)
  out[#out + 1] = int(#all / 2)
  for _, word in ipairs(all) do out[#out + 1] = word end
  return out
end

local function nothing_known(out, last)
  for i = #out, last, -1 do out[i] = nil end
  out[last] = 'lost'
  return out
end

-- 'known' and every entry after this one, or 'lost'
local function read(known_epoch, wanted, out)
  wanted = tonumber(wanted)
  if epoch == known_epoch and wanted <= seq and wanted >= math.max(below, seq - LOG_ENTRIES) then
    out[#out + 1] = 'known'
    local last = #out
    if wanted < seq then
      for _, record in ipairs(call('XRANGE', log, id(wanted + 1), '+')) do out[#out + 1] = record[2][2] end
    end
    if #out - last ~= seq - wanted then return nothing_known(out, last) end
  else
    out[#out + 1] = 'lost'
  end
  return out
end

local function begin(from, most)
  call('DEL', meta, members, leases, seen, older)
  hosts, count, max = '', 0, most
  restart(from)
end

-- A server that took over from another may lack the end of its log: what clients were told last. So the log
-- begins anew, and replicas say who is there; who is not claimed was gone.
local function take_over()
  read_rest(call('HGET', meta, 'c'))
  call('DEL', leases)
  set_hosts('')
  each(function(member, conn)
    place(member, conn, '-')
    await(member)
  end)
  restart(base + call('XLEN', log))
  index()
  save()
end

-- Takes the record in; false when there is no such room.
local function is_there(record, replicas)
  if not record then
    epoch, hosts = nil, ''
    return false
  end
  epoch, life, base = unpack_record(RECORD, record)
  prefix = nil
  hosts, heavy, old = replicas or '', nil, nil
  return true
end

local function is_elsewhere()
  if find(LIVES, life, 1, true) then
    -- it was moved here from a server that lives: whole
    life, changed = LIFE, true
    return false
  end
  return true
end

-- Reads what it takes to append, and of two members where they are.
local function open(one, two)
  local words = call('HMGET', meta, 'r', 'h', one, two)
  if is_there(words[1], words[2]) and life ~= LIFE and is_elsewhere() then
    take_over()
    words = call('HMGET', meta, 'r', 'h', one, two)
  end
  if epoch then seq = base + call('XLEN', log) end
  return words[3], words[4]
end

-- Reads the whole room, and of two members where they are.
local function open_all(one, two)
  local words = call('HMGET', meta, 'r', 'h', 'c', one or '-', two or '-')
  if not is_there(words[1], words[2]) then return end
  if life ~= LIFE and is_elsewhere() then
    take_over()
    words = call('HMGET', meta, 'r', 'h', 'c', one or '-', two or '-')
  end
  read_rest(words[3])
  seq = base + call('XLEN', log)
  return words[4], words[5]
end

-- nil, or why this connection, a number and a space, may not write; of a member's word. 0 stands for whichever
-- connection the session has: its writer has shown the secret.
local function refused(word, connection)
  if not epoch or not word then return 'unknown' end
  if connection ~= '0 ' and find(word, connection, 1, true) ~= 1 then return 'superseded' end
end

-- Whether and where a request was appended before.
local function before(request)
  local at = call('HGET', seen, request) or call('HGET', older, request)
  return at and 'before ' .. at
end

-- Two generations of requests are known. How many there are in this one.
local function remember(request)
  if call('HLEN', seen) >= SEEN then call('RENAME', seen, older) end
  call('HSET', seen, request, int(seq))
end

-- The replica that calls has nobody here any more, as far as it knows.
local function unhost(last)
  if last ~= '1' or not is_host(ME) then return end
  local mine = false
  each(function(_, _, holder) mine = mine or holder == ME end)
  if mine then return end
  call('ZREM', leases, 'r:' .. ME)
  keep_hosts(function(host) return host ~= ME end)
end
