local member, conn, last = next_arg(), next_arg(), next_arg()
local word = open_all(member)
if not epoch or not word then return 'unknown' end
local current, holder = taken_apart(word)
-- 0 is for a replica that still holds it
if not (conn == '0' and holder == ME) and current ~= conn then return 'superseded' end
place(member, current, '-')
await(member)
unhost(last)
return 'detached'
