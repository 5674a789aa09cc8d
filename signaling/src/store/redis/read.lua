return read(ARGV[FIRST], ARGV[FIRST + 1], {'read'})
