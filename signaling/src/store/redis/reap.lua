local epoch = redis.call('HGET', meta, 'epoch')
if epoch then reap(epoch) end
tidy()
return {'done'}
