local member, conn, last_here = next_arg(), next_arg(), next_arg()
local word = open(member)
if not epoch or not word then return 'unknown' end
local current, holder = taken_apart(word)
-- 0 is for a replica that still holds it
if not (conn == '0' and holder == ME) and current ~= conn then return 'superseded' end
await(member, word, current)
unhost(last_here)
return 'detached'
