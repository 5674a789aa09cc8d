local known_epoch, wanted = next_arg(), next_arg()
open()
if not epoch then return {'read', '0', '0', 'lost'} end
return read(known_epoch, wanted, {is_host(ME) and 'hosted' or 'read', epoch, int(last())})
