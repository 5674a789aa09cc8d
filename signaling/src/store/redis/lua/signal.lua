-- A signal that does not come again, on the connection that its first word says. All that is done most often is here.
local a, i = args, arg
local from, to, entry = a[i + 1], a[i + 2], a[i + 3]
arg = i + 3
local sender, receiver = open(from, to)
local no = refused(sender, conn)
if no then return no end
if to ~= '-' and not receiver then return 'nobody' end
append(entry)
return place_of
