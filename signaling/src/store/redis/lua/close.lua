open_all()
if not epoch then return 'unknown' end
local all = {}
each(function(member, _, holder) all[#all + 1] = {member = member, holder = holder} end)
remove_all(all, 'kicked')
tidy()
return 'closed'
