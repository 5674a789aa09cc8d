-- Writes of any rooms that are on this server, with STRIDE keys each: the first two are those of the record and the
-- log. An act takes all of its arguments before it does anything, so that one that fails harms no other.
local function one()
  local name, answer = next_arg(), nil
  local does = act[name]
  if does then
    all_keys()
    answer = does()
  else
    conn = name
    answer = act.signal()
  end
  if epoch and (changed or rest_changed or fields) then save() end
  return answer
end

-- What was appended, then the answer.
local function list(answer)
  local out = {int(written and #written or 0)}
  for _, record in ipairs(written or {}) do out[#out + 1] = record end
  for _, word in ipairs(type(answer) == 'table' and answer or {answer}) do out[#out + 1] = word end
  return out
end

local function write(keys, words)
  if not call then bind() end
  args, arg, boxes, now = words, 5, {}, nil
  ME, LIFE, LIVES, CHANNEL, NEWS = words[1], words[2], words[3], words[4], tonumber(words[5])
  local answers = {}
  for i = 1, #keys, STRIDE do
    meta, log = keys[i], keys[i + 1]
    changed, rest_changed, fields, written = false, false, nil, nil
    local worked, answer = pcall(one)
    if not worked then
      if epoch then pcall(save) end
      answer = {err = 'ERR ' .. tostring(type(answer) == 'table' and answer.err or answer)}
    elseif written or type(answer) == 'table' then
      answer = list(answer)
    end
    answers[#answers + 1] = answer
  end
  for host, box in pairs(boxes) do call(PUBLISH, CHANNEL .. host, table.concat(box)) end
  return answers
end
