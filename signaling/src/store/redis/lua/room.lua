-- What the acts on a room have in common. A library is compiled once, so that a call makes no closures: what belongs
-- to a call, and to the room that a write of it is about, is in these variables.

-- Of Redis and Lua, which a library sees only while a function of it runs.
local call, try, floor, max_of, format, find, match, gmatch, sub, concat, sort, pack, unpack_record
local function bind()
  call, try, floor, max_of, sort, concat = redis.call, redis.pcall, math.floor, math.max, table.sort, table.concat
  format, find, match, gmatch, sub = string.format, string.find, string.match, string.gmatch, string.sub
  pack, unpack_record = struct.pack, struct.unpack
end

-- ME: the replica that calls. LIFE: of the data of this server; it ends when a replica takes over, or with a
-- restart. LIVES: of all servers that have rooms now. CHANNEL: what the channels of replicas begin with.
-- NEWS: how many of a partition are kept.
local ME, LIFE, LIVES, CHANNEL, NEWS
-- The arguments, which one was taken last, and what is sent to which replica when all is done: of each entry the separator
-- (no JSON has it, as in RFC 7464, nor a name), the room's first key and its epoch; seq; and the entry itself.
local args, arg, boxes
local now, seconds, micros

-- Keys. The log has the entries after `base`, and no others; those up to `below` are forgotten. It is a stream, and the id of an
-- entry is the epoch and the number: replicas append to it by themselves too (see `known.rs`).
local meta, log, room, part, seen, older
-- The room's record, the field r of `meta`; the other fields are its members. `old` and `heavy` mark what is forgotten next, by
-- age (looked at in `aged`) and by weight (`bytes` since). `hosts`: the replicas that host it, as one word. `leased`: when
-- the first detached session's lease runs out, or 0; then when that of each host does; six bytes each.
local epoch, life, base, aged, old, heavy, bytes, below, max, hosts, leased
local RECORD, RECORD_BYTES, NO_LEASE = '>c16c20I6I6I6I6I4I6I4', 74, '\0\0\0\0\0\0'
-- Of the log's last entry; and how many members there are. nil until it is asked for.
local seq, count
-- Whether the record has to be written, and members that have to.
local changed, fields
-- What was appended, for those on the replica that calls; and what other replicas are sent before each entry.
local written, prefix

local act = {}

local function next_arg()
  arg = arg + 1
  return args[arg]
end

-- Most numbers are small, and printing one costs more than most of what is done with it. (%d takes what a long can hold.)
local printed, PRINTED = {}, 256
local function int(n)
  local text = printed[n]
  if not text then
    text = format('%d', n)
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
  log = part .. 'log:' .. room
end

local function more_keys()
  seen, older = part .. 'seen:' .. room, part .. 'older:' .. room
end

local function clock()
  if now then return end
  seconds, micros = unpack(call('TIME'))
  now = seconds * 1000 + floor(micros / 1000)
end

local function put(field, value)
  fields = fields or {}
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end

local function save()
  if changed then
    put('r', pack(RECORD, epoch, life, base, aged, old, heavy, bytes, below, max) .. hosts .. '\n' .. leased)
    changed = false
  end
  if fields then
    call('HSET', meta, unpack(fields))
    fields = nil
  end
end

-- The number of the last entry.
local function last()
  seq = seq or base + call('XLEN', log)
  return seq
end

-- How many members there are.
local function size()
  if not count then
    save()
    count = call('HLEN', meta) - 1
  end
  return count
end

-- The replicas in a word of hosts. Few words are in use at a time, and each is taken apart once.
local known, known_count = {}, 0
local function split(word)
  local names = known[word]
  if not names then
    names = {}
    for name in gmatch(word, '%S+') do names[#names + 1] = name end
    if known_count >= 4096 then known, known_count = {}, 0 end
    known[word], known_count = names, known_count + 1
  end
  return names
end

local function is_host(name)
  if hosts == name then return true end
  for _, host in ipairs(split(hosts)) do
    if host == name then return true end
  end
  return false
end

-- When the first detached session's lease runs out (0), or that of a host, by its number.
local function lease(n)
  return (unpack_record('>I6', leased, n * 6 + 1))
end

local function set_lease(n, ends)
  leased, changed = sub(leased, 1, n * 6) .. pack('>I6', ends) .. sub(leased, n * 6 + 7), true
end

-- Hosts for which this holds stay.
local function keep_hosts(stays)
  local names, ends = {}, {sub(leased, 1, 6)}
  for i, host in ipairs(split(hosts)) do
    if stays(host) then names[#names + 1], ends[#ends + 1] = host, sub(leased, i * 6 + 1, i * 6 + 6) end
  end
  hosts, leased, changed = concat(names, ' '), concat(ends), true
end

-- What a room says of a member: the connection that it has, and where; - and until when, if it has none; then what stays
-- so for as long as the session: since when it is a member, its secret, and its profile.
local function enlist(member, conn, holder, since, secret, profile)
  local word = conn .. ' ' .. holder .. ' 0 ' .. since .. ' ' .. secret .. '\n' .. profile
  put(member, word)
  return word
end

local function place(member, word, conn, holder, ends)
  put(member, conn .. ' ' .. holder .. ' ' .. (ends or '0') .. match(word, '^%d+ %S+ %d+(.*)$'))
end

-- conn, holder, until when, since, secret
local function taken_apart(word)
  return match(word, '^(%d+) (%S+) (%d+) (%d+) (%S+)\n')
end

-- Calls with each member and what is said of it.
local function each(visit)
  save()
  local all = call('HGETALL', meta)
  for i = 1, #all, 2 do
    if all[i] ~= 'r' then visit(all[i], all[i + 1]) end
  end
end

-- The index of rooms: when each has to be looked at for leases that have run out. No later than that.
local function look_at(score)
  call('ZADD', part .. 'due', 'LT', int(score), room)
end

local function index()
  local first = lease(0)
  for i = 1, #leased / 6 - 1 do
    local ends = lease(i)
    if first == 0 or ends < first then first = ends end
  end
  if first > 0 then
    call('ZADD', part .. 'due', int(first), room)
  else
    call('ZREM', part .. 'due', room)
  end
end

local function hold(holder)
  clock()
  for i, host in ipairs(split(hosts)) do
    if host == holder then return set_lease(i, now + REPLICA_LEASE) end
  end
  -- the leases of other replicas do not last longer
  if hosts == '' then look_at(now + REPLICA_LEASE) end
  hosts = hosts == '' and holder or hosts .. ' ' .. holder
  set_lease(#leased / 6, now + REPLICA_LEASE)
end

-- A session without a connection.
local function await(member, word, conn)
  clock()
  local ends = now + DETACHED_LEASE
  place(member, word, conn, '-', int(ends))
  if lease(0) == 0 then set_lease(0, ends) end
  look_at(ends)
end

-- Requests that may come again are looked up in two generations of notes, and in what of the log is not noted yet. The
-- field without a name says up to where that is.
local function write_notes(notes)
  if call('HLEN', seen) > SEEN then call('RENAME', seen, older) end
  call('HSET', seen, unpack(notes))
end

-- Replicas append without noting. Returns where this request is, if it is new to the notes.
local function note_requests(noted, request)
  noted = max_of(tonumber(noted or 0), base)
  if noted >= last() then return end
  local at
  local notes, n = {'', int(seq)}, 2
  for _, record in ipairs(call('XRANGE', log, id(noted + 1), '+')) do
    local from, word = match(record[2][2], '^s (%S+) %S+ ([^u%s]%S*)\n')
    if from then
      local one, number = from .. ' ' .. word, match(record[1], '%d+$')
      if one == request then at = number end
      if n >= 1024 then
        write_notes(notes)
        notes, n = {'', int(seq)}, 2
      end
      notes[n + 1], notes[n + 2], n = one, number, n + 2
    end
  end
  write_notes(notes)
  return at
end

-- What will be no more is noted first.
local function note_rest()
  more_keys()
  note_requests(call('HGET', seen, ''))
end

-- Entries up to this one are no longer kept.
local function trim(to)
  if to <= base then return end
  note_rest()
  call('XTRIM', log, 'MINID', id(to + 1))
  base, changed = to, true
end

-- Entries up to the last mark of a kind are forgotten, and the next ones go on from here: so the log has
-- between one and two times what is kept.
local function forget(mark)
  below, changed = max_of(mark, below), true
  trim(below)
end

-- To all replicas that host the room, but the one that calls, which has the answer.
local function publish(entry)
  if hosts == ME then return end
  prefix = prefix or '\30' .. meta .. '\n' .. epoch .. ' '
  for _, host in ipairs(split(hosts)) do
    if host ~= ME then
      local box = boxes[host]
      if not box then
        box = {n = 0}
        boxes[host] = box
      end
      local n = box.n
      box[n + 1], box[n + 2], box[n + 3], box.n = prefix, int(seq), entry, n + 3
    end
  end
end

-- The log begins anew; there is none.
local function renew(from)
  clock()
  local last = epoch
  -- Microseconds, so that two lives of a room never share an epoch; below 2^53 until the year 2255.
  epoch = seconds .. format('%06d', micros)
  -- after every earlier one, also when the clock of a new server is behind
  if last and tonumber(epoch) <= tonumber(last) then epoch = int(tonumber(last) + 1) end
  life, seq, base, below, old, heavy, bytes, aged = LIFE, from, from, from, from, from, 0, now
  prefix, changed = nil, true
end

local function restart(from)
  note_rest()
  call('DEL', log)
  renew(from)
end

-- Gives the next number, writes the log, tells the other replicas that host the room.
local function append(entry)
  local added
  if not seq then
    added = call('XADD', log, 'NOMKSTREAM', epoch .. '-*', 'e', entry)
    -- there is no log, so that it would begin with 0
    if not added then seq = base end
  end
  added = added or try('XADD', log, id(seq + 1), 'e', entry)
  if type(added) ~= 'table' then
    seq = tonumber(sub(added, #epoch + 2))
  else
    local newest = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    if not newest then error(added) end
    -- there are gaps in it, so it is none
    restart(max_of(last(), tonumber(match(newest[1], '%d+$'))))
    seq = seq + 1
    call('XADD', log, id(seq), 'e', entry)
  end
  if #entry >= LIGHT then
    bytes, changed = bytes + #entry, true
    if bytes * 2 >= LOG_BYTES then
      forget(heavy)
      heavy, bytes = seq, 0
    end
  end
  if seq - base >= LOG_ENTRIES * 2 then
    if call('XLEN', log) == seq - base then
      trim(seq - LOG_ENTRIES)
    else
      -- a log with gaps is none
      restart(seq)
    end
  end
  publish(entry)
end

-- How many entries may come before a function has to look at the log's bounds.
local function left()
  return int(LOG_ENTRIES * 2 - (seq - base))
end

-- Where a signal is, and what the replica that calls has to know to go on by itself: what is left (- when nothing is published
-- to this replica), and who is published to.
local function at()
  return 'at ' .. epoch .. ' ' .. int(seq) .. ' ' .. (is_host(ME) and left() or '-') .. ' ' .. hosts
end

-- Who came or went is for webhooks too: one step with the log, so that neither is without the other. Numbered, so that
-- who reads it sees what was lost.
local function note(entry, brief)
  clock()
  local news = part .. 'news'
  local newest = call('XREVRANGE', news, '+', '-', 'COUNT', 1)[1]
  call('XADD', news, 'MAXLEN', NEWS, '*', 'n', int(newest and newest[2][2] + 1 or 1), 'at', int(now), 'room', room,
    'members', int(count), 'e', epoch .. ' ' .. int(seq) .. ' ' .. match(entry, '^[^\n]*\n') .. brief)
end

-- Appends what those on the replica that calls are told too; of a signal, who sends it knows what. `over`: so is the room, and
-- its log.
local function announce(entry, brief, over)
  if over then
    seq = last() + 1
    publish(entry)
  else
    append(entry)
  end
  written = written or {}
  local n = #written
  written[n + 1], written[n + 2], written[n + 3] = epoch, int(seq), entry
  if brief and NEWS > 0 and not find(room, '\31', 1, true) then note(entry, brief) end
end

-- `since` is for one that has only now become a member
local function come(member, holder, profile, brief)
  if NEWS > 0 then size() end
  if count then count = count + 1 end
  announce('j ' .. member .. ' - ' .. holder .. '\n' .. profile, brief)
end

-- `ends`: a room that nobody is left in ends with this act.
local function remove(member, reason, ends)
  local over = size() == 1 and ends
  if not over then call('HDEL', meta, member) end
  count = count - 1
  announce('l ' .. member .. ' - ' .. reason .. '\n', '', over)
end

-- The oldest first, so that every store tells it alike.
local function remove_all(those, reason, ends)
  sort(those, function(a, b)
    if a.since ~= b.since then return a.since < b.since end
    return a.member < b.member
  end)
  for _, who in ipairs(those) do remove(who.member, reason, ends) end
end

local function reap(ends_room)
  clock()
  local over, any = {}, lease(0) > 0 and lease(0) <= now
  for i, host in ipairs(split(hosts)) do
    if lease(i) <= now then over[host], any = true, true end
  end
  if not any then return end
  local lost, first = {}, 0
  each(function(member, word)
    local _, holder, ends, since = taken_apart(word)
    ends = tonumber(ends)
    if over[holder] or (holder == '-' and ends <= now) then
      lost[#lost + 1] = {member = member, since = tonumber(since)}
    elseif holder == '-' and (first == 0 or ends < first) then
      first = ends
    end
  end)
  set_lease(0, first)
  keep_hosts(function(host) return not over[host] end)
  remove_all(lost, 'lost', ends_room)
end

-- A room that nobody is in is over.
local function tidy()
  if epoch and size() > 0 then return false end
  more_keys()
  call('DEL', meta, log, seen, older)
  call('ZREM', part .. 'due', room)
  changed, fields, epoch = false, nil, nil
  return true
end

-- epoch, seq, how many members, then each with what is said of it
local function view(out)
  out[#out + 1] = epoch
  out[#out + 1] = int(last())
  local at, n = #out + 1, 0
  out[at] = ''
  each(function(member, word)
    n = n + 1
    out[at + 2 * n - 1], out[at + 2 * n] = member, word
  end)
  out[at] = int(n)
  return out
end

-- 'known' and every entry after this one, or 'lost'
local function read(known_epoch, wanted, out)
  wanted = tonumber(wanted)
  if epoch ~= known_epoch or wanted > last() or wanted < max_of(below, seq - LOG_ENTRIES) then
    out[#out + 1] = 'lost'
    return out
  end
  local all = wanted < seq and call('XRANGE', log, id(wanted + 1), '+') or {}
  local newest = all[1] and tonumber(match(all[#all][1], '%d+$')) or wanted
  if newest ~= seq or #all ~= seq - wanted then
    -- a log with gaps is none
    restart(max_of(seq, newest))
    out[#out + 1] = 'lost'
    return out
  end
  out[#out + 1] = 'known'
  for _, record in ipairs(all) do out[#out + 1] = record[2][2] end
  return out
end

local function begin(from, most)
  more_keys()
  call('DEL', meta, log, seen, older)
  hosts, leased, count, max = '', NO_LEASE, 0, most
  renew(from)
end

-- A server that took over from another may lack the end of its log: what clients were told last. So the log
-- begins anew, and replicas say who is there; who is not claimed was gone.
local function take_over()
  hosts, leased, changed = '', NO_LEASE, true
  each(function(member, word) await(member, word, match(word, '^%d+')) end)
  restart(last())
  index()
  save()
end

-- Takes the record in; false when there is no such room.
local function is_there(record)
  seq, count, prefix = nil, nil, nil
  if not record then
    epoch, hosts = nil, ''
    return false
  end
  epoch, life, base, aged, old, heavy, bytes, below, max = unpack_record(RECORD, record)
  local at = find(record, '\n', RECORD_BYTES + 1, true)
  hosts, leased = sub(record, RECORD_BYTES + 1, at - 1), sub(record, at + 1)
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

-- Reads the record, and what is said of members.
local open
function open(one, two)
  local words
  if two then
    words = call('HMGET', meta, 'r', one, two)
  elseif one then
    words = call('HMGET', meta, 'r', one)
  else
    words = {call('HGET', meta, 'r')}
  end
  if is_there(words[1]) and life ~= LIFE and is_elsewhere() then
    take_over()
    return open(one, two)
  end
  return words[2], words[3]
end

-- nil, or why this connection, a number and a space, may not write; of a member's word. 0 stands for whichever
-- connection the session has: its writer has shown the secret.
local function refused(word, connection)
  if not epoch or not word then return 'unknown' end
  if connection ~= '0 ' and find(word, connection, 1, true) ~= 1 then return 'superseded' end
end

-- Whether and where a request was appended before.
local function before(request)
  more_keys()
  local noted, at = unpack(call('HMGET', seen, '', request))
  at = at or call('HGET', older, request) or note_requests(noted, request)
  if at then return 'before ' .. at end
end

-- After it was asked for, and appended.
local function remember(request)
  write_notes({'', int(seq), request, int(seq)})
end

-- All requests of a member, after one was remembered, so that a replica can tell new ones by itself; nothing when there are
-- many to look through.
local function requests_of(member)
  if call('HLEN', seen) > FEW or call('EXISTS', older) == 1 then return '' end
  local words = {' /'}
  for _, word in ipairs(call('HKEYS', seen)) do
    local from, request = match(word, '^(%S+) (%S+)$')
    if from == member then words[#words + 1] = request end
  end
  return concat(words, ' ')
end

-- The replica that calls has nobody here any more, as far as it knows.
local function unhost(last_here)
  if last_here ~= '1' or not is_host(ME) then return end
  local mine = false
  each(function(_, word) mine = mine or match(word, '^%d+ (%S+)') == ME end)
  if not mine then keep_hosts(function(host) return host ~= ME end) end
end
