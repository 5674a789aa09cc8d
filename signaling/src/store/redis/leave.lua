local member, conn, reason = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2]
local no = refused(member, which(member, conn))
if no then return no end
remove(redis.call('HGET', meta, 'epoch'), member, reason)
local seq = redis.call('HGET', meta, 'seq')
tidy()
return {'left', seq}
