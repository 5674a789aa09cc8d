open()
if not epoch then return 'unknown' end
local all = {}
each(function(member, word) all[#all + 1] = {member = member, since = tonumber((select(4, taken_apart(word))))} end)
remove_all(all, 'kicked', true)
tidy()
return 'closed'
