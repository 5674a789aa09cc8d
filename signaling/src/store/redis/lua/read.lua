local known_epoch, wanted = next_arg(), next_arg()
open_all()
return epoch and read(known_epoch, wanted, {is_host(ME) and 'hosted' or 'read', epoch, int(seq)}) or {'read', '0', '0', 'lost'}
