local holder, known_epoch, known_seq, most, claims =
  next_arg(), next_arg(), tonumber(next_arg()), tonumber(next_arg()), {}
for i = 1, next_arg() do
  claims[i] = {next_arg(), next_arg(), next_arg(), next_arg(), next_arg(), next_arg()}
end
open_all()
if not epoch or count == 0 then
  begin(math.max(epoch and seq or 0, known_seq), most)
elseif epoch == known_epoch and seq < known_seq then
  restart(known_seq)
end
-- A new life must come after every earlier one, also when the clock of a new Redis is behind.
if epoch ~= known_epoch and tonumber(epoch) < tonumber(known_epoch) then
  restart(seq)
  epoch = int(math.max(tonumber(epoch), tonumber(known_epoch) + 1))
end
hold(holder)
for _, claim in ipairs(claims) do
  local member, conn, since, secret, profile, brief = unpack(claim)
  local word = call('HGET', meta, member)
  local current, last
  if word then current, last = taken_apart(word) end
  local ahead = word and tonumber(current) - tonumber(conn)
  if not word or ahead < 0 or (ahead == 0 and last == '-') then
    if word then
      -- who writes without a function has to see that there is another replica
      announce('a ' .. member .. ' - ' .. conn .. '\n')
    else
      come(member, profile, brief)
    end
    if last == '-' then call('ZREM', leases, 'd:' .. member) end
    enlist(member, conn, holder, since, secret, profile)
    save()
  end
end
index()
return view({'asserted'})
