local member, secret, holder, most, bound, profile, brief =
  next_arg(), next_arg(), next_arg(), next_arg(), tonumber(next_arg()), next_arg(), next_arg()
local word = open(member)
if not epoch then begin(0, tonumber(most)) end
local conn, place_now, _, since, known
if word then conn, place_now, _, since, known = taken_apart(word) end
if known == secret then
  if place_now ~= holder then
    place(member, word, conn, holder)
    announce('a ' .. member .. ' - ' .. conn .. '\n')
  end
else
  local limit = max
  if limit == 0 or (bound > 0 and bound < limit) then limit = bound end
  if limit > 0 and size() >= limit then reap() end
  if limit > 0 and size() >= limit then
    save()
    index()
    return {'full', int(limit)}
  end
  -- one that takes another's place is no more
  if known and size() and call('HEXISTS', meta, member) == 1 then count = count - 1 end
  come(member, holder, profile, brief)
  word = enlist(member, '1', holder, int(seq), secret, profile)
end
hold(holder)
-- as of a signal, the replica may go on by itself
if count == 1 then return {'joined', epoch, int(seq), '1', member, word, left(), hosts} end
local out = view({'joined'})
-- not one that came before, whose connection may be a later one
out[#out + 1], out[#out + 2] = known == secret and '0' or left(), hosts
return out
