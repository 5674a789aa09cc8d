-- A signal. `rest` is the connection and a space, from whom and to whom. One that may come again has a request. `spent`: bytes that
-- the replica appended by itself and that count. `whole`: it wants to know all requests of the sender.
local connection, from, to = match(rest, '^(%d+ )(%S+) (%S+)$')
local entry, request, spent, whole = next_arg(), next_arg(), tonumber(next_arg()), next_arg()
local sender, receiver = open(from, to)
local no = refused(sender, connection)
if no then return no end
local before = request ~= '' and before(request)
if before then return before end
if to ~= '-' and not receiver then return 'nobody' end
if spent > 0 then bytes, changed = bytes + spent, true end
append(entry)
if request == '' then return at() end
remember(request)
return whole == '1' and at() .. requests_of(from) or at()
