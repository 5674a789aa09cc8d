local member, conn, reason, last = next_arg(), next_arg(), next_arg(), next_arg()
local word = open_all(member)
local no = refused(word, conn)
if no then return no end
local _, holder = taken_apart(word)
remove(member, holder, reason, count == 1)
if not tidy() then unhost(last) end
return {'left', int(seq)}
