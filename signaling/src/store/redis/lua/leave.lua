local member, conn, reason, last_here = next_arg(), next_arg(), next_arg(), next_arg()
local word = open(member)
local no = refused(word, conn)
if no then return no end
remove(member, reason, true)
if not tidy() then unhost(last_here) end
return {'left', int(seq)}
