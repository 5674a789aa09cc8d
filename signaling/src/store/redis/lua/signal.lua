-- A signal that cannot come again. `rest` is the connection and a space, from whom, to whom, and which epoch the room has as far
-- as the replica that calls knows.
local connection, from, to, known_epoch = match(rest, '^(%d+ )(%S+) (%S+) (%d+)$')
local entry = next_arg()
local sender, receiver = open(from, to)
local no = refused(sender, connection)
if no then return no end
if to ~= '-' and not receiver then return 'nobody' end
append(entry)
keep(epoch == known_epoch and signals)
return epoch == known_epoch and seq or position()
