local known_epoch, wanted = next_arg(), next_arg()
open_all()
return epoch and read(known_epoch, wanted, {'read'}) or {'read', 'lost'}
