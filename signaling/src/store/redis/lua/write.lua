-- Writes of any rooms that are on this server. The first word is what all have in common. Each write begins with its head: the
-- room's first key, and in another line the act, or of a signal whose it is and whose it shall be. An act takes all of
-- its arguments before it does anything, so that one that fails harms no other.
local function one()
  local first, rest = match(next_arg(), '^([^\n]*)\n(.*)$')
  all_keys(first)
  if find(rest, '^%d') then return act.signal(rest) end
  return act[rest]()
end

-- What was appended, each as epoch, seq and entry; then the answer.
local function list(answer)
  written = written or {}
  local n = #written
  local out = {int(n / 3)}
  for i = 1, n do out[i + 1] = written[i] end
  if type(answer) ~= 'table' then
    out[n + 2] = answer
  else
    for i = 1, #answer do out[n + 1 + i] = answer[i] end
  end
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
  changed, fields, written, epoch = false, nil, nil, nil
  local worked, answer = pcall(one)
  if epoch and (changed or fields) then
    local saved, why = pcall(save)
    if worked and not saved then worked, answer = false, why end
  end
  if not worked then
    return {err = 'ERR ' .. tostring(type(answer) == 'table' and answer.err or answer)}
  end
  return (written or type(answer) == 'table') and list(answer) or answer
end

local common
local function write(_, words)
  if not call then bind() end
  args, arg, boxes, now = words, 1, {}, nil
  -- what is the same in most calls is taken apart when it changes
  if words[1] ~= common then
    common = words[1]
    ME, LIFE, LIVES, CHANNEL, NEWS = match(common, '^(.-)\n(.-)\n(.-)\n(.-)\n(.-)$')
    NEWS = tonumber(NEWS)
  end
  local answers, last = {}, #words
  while arg < last do answers[#answers + 1] = guarded() end
  for host, box in pairs(boxes) do send(CHANNEL .. host, box) end
  return answers
end
