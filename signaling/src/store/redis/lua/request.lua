-- A signal that may come again.
local from, conn, to, entry, request = next_arg(), next_arg(), next_arg(), next_arg(), next_arg()
local sender, receiver = open_all(from, to)
return refused(sender, conn) or pass(entry, request, to == '-' or receiver)
