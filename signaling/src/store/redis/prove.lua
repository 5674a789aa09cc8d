local member, secret = ARGV[FIRST], ARGV[FIRST + 1]
local m = load(member)
if not m or m.secret ~= secret then return {'unknown'} end
return {'known'}
