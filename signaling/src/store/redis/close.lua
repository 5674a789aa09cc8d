if not epoch then return {'unknown'} end
local all = {}
for _, member in ipairs(redis.call('HKEYS', members)) do
  all[#all + 1] = {since = tonumber(load(member).since), member = member}
end
table.sort(all, function(a, b)
  if a.since ~= b.since then return a.since < b.since end
  return a.member < b.member
end)
for _, who in ipairs(all) do remove(who.member, 'kicked') end
tidy()
return {'closed'}
