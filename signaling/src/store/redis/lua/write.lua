-- Writes of any rooms that are on this server. The first word is what all have in common. Each write begins with its head: the
-- room's first key, and in another line the act, or of a signal whose it is and whose it shall be. An act takes all of
-- its arguments before it does anything, so that one that fails harms no other.
local function one()
  head = next_arg()
  local at, state = arg, signals[head]
  if state then
    local answer = heavy_signal_again(state, next_arg())
    if answer then return answer end
  else
    state = requests[head]
    if state then
      local answer = request_again(state, next_arg(), next_arg())
      if answer then return answer end
    end
  end
  arg = at
  local first, rest = match(head, '^([^\n]*)\n(.*)$')
  all_keys(first)
  if find(rest, '^%d') then return act.signal(rest) end
  if find(rest, 'request ', 1, true) == 1 then return act.request(rest) end
  forget_room()
  return act[rest]()
end

-- What was appended, then the answer.
local function list(answer)
  local out = {int(written and #written or 0)}
  for _, record in ipairs(written or {}) do out[#out + 1] = record end
  for _, word in ipairs(type(answer) == 'table' and answer or {answer}) do out[#out + 1] = word end
  return out
end

-- Eight entries a message, put together at once: Lua looks at every byte of each text that it makes.
local function send(channel, b)
  local last = b.n
  if last == 3 then
    call(PUBLISH, channel, b[1] .. b[2] .. b[3])
    return
  end
  for i = last + 1, last + 23 do b[i] = '' end
  for i = 1, last, 24 do
    call(PUBLISH, channel, b[i] .. b[i + 1] .. b[i + 2] .. b[i + 3] .. b[i + 4] .. b[i + 5] .. b[i + 6] .. b[i + 7] ..
      b[i + 8] .. b[i + 9] .. b[i + 10] .. b[i + 11] .. b[i + 12] .. b[i + 13] .. b[i + 14] .. b[i + 15] ..
      b[i + 16] .. b[i + 17] .. b[i + 18] .. b[i + 19] .. b[i + 20] .. b[i + 21] .. b[i + 22] .. b[i + 23])
  end
end

-- One that fails or is refused harms no other.
local function guarded()
  changed, rest_changed, fields, written, epoch = false, false, nil, nil, nil
  local worked, answer = pcall(one)
  if epoch and (changed or rest_changed or fields) then
    local saved, why = pcall(save)
    if worked and not saved then worked, answer = false, why end
  end
  if not worked then
    forget_room()
    return {err = 'ERR ' .. tostring(type(answer) == 'table' and answer.err or answer)}
  end
  return (written or type(answer) == 'table') and list(answer) or answer
end

local common, busy
-- What is the same in most calls is taken apart when it changes.
local function begin_call(word)
  if word ~= common then
    local last = LIFE
    ME, LIFE, LIVES, CHANNEL, NEWS = match(word, '^(.-)\n(.-)\n(.-)\n(.-)\n(.-)$')
    NEWS, WRITER, common = tonumber(NEWS), sub(CHANNEL, 1, -4) .. 'writer', word
    if LIFE ~= last then token = nil end
  end
  if heads >= HEADS then forget_all() end
  -- one that was broken off may have left things half done
  if busy or not token or call('GET', WRITER) ~= token then
    forget_all()
    clock()
    token = token or LIFE .. fresh .. tostring(states)
    call('SET', WRITER, token)
  end
end

local function write(_, words)
  if not call then bind() end
  args, arg, boxes, now = words, 1, {}, nil
  begin_call(words[1])
  busy = true
  local answers, last = {}, #words
  while arg < last do
    local state = signals[words[arg + 1]]
    local answer = state and signal_again(state, words[arg + 2])
    if answer then
      arg = arg + 2
    else
      answer = guarded()
    end
    answers[#answers + 1] = answer
  end
  for host, box in pairs(boxes) do send(CHANNEL .. host, box) end
  busy = false
  return answers
end
