local member, conn, reason, last = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3]
local no = refused(member, which(member, conn))
if no then return no end
remove(member, reason)
local seq = redis.call('HGET', meta, 'seq')
unhost(last)
tidy()
return {'left', seq}
