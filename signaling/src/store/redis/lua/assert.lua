local holder, known_epoch, known_seq, most, claims =
  next_arg(), next_arg(), tonumber(next_arg()), tonumber(next_arg()), {}
for i = 1, next_arg() do
  claims[i] = {next_arg(), next_arg(), next_arg(), next_arg(), next_arg(), next_arg()}
end
open()
if not epoch or size() == 0 then
  begin(max_of(epoch and last() or 0, known_seq), most)
elseif epoch == known_epoch and last() < known_seq then
  restart(known_seq)
end
-- A new life must come after every earlier one, also when the clock of a new Redis is behind.
if epoch ~= known_epoch and tonumber(epoch) < tonumber(known_epoch) then
  restart(last())
  epoch = int(max_of(tonumber(epoch), tonumber(known_epoch) + 1))
end
hold(holder)
for _, claim in ipairs(claims) do
  local member, conn, since, secret, profile, brief = unpack(claim)
  local word = call('HGET', meta, member)
  local current, place
  if word then current, place = taken_apart(word) end
  local ahead = word and tonumber(current) - tonumber(conn)
  if not word or ahead < 0 or (ahead == 0 and place == '-') then
    if word then
      -- who writes without a function has to see that there is another replica
      announce('a ' .. member .. ' - ' .. conn .. '\n')
    else
      come(member, holder, profile, brief)
    end
    enlist(member, conn, holder, since, secret, profile)
    save()
  end
end
save()
index()
return view({'asserted'})
