-- A signal that may come again, under the same `request`.
local connection, from, to, known_epoch = match(rest, '^request (%d+ )(%S+) (%S+) (%d+)$')
local entry, request = next_arg(), next_arg()
local sender, receiver = open(from, to)
local no = refused(sender, connection)
if no then return no end
local at = before(request)
if at then return at end
if to ~= '-' and not receiver then return 'nobody' end
append(entry)
keep(epoch == known_epoch and requests, remember(request))
return epoch == known_epoch and seq or position()
