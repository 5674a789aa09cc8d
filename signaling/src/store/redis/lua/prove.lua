local member, secret = next_arg(), next_arg()
open_all()
local _, known = of(member)
return epoch and known == secret and 'known' or 'unknown'
