-- A signal. `rest` is the connection and a space, from whom and to whom. One that may come again has a request.
local connection, from, to = match(rest, '^(%d+ )(%S+) (%S+)$')
local entry, request = next_arg(), next_arg()
local sender, receiver = open(from, to)
local no = refused(sender, connection)
if no then return no end
local before = request ~= '' and before(request)
if before then return before end
if to ~= '-' and not receiver then return 'nobody' end
append(entry)
if request ~= '' then remember(request) end
return at()
