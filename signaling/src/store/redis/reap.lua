if epoch then reap() end
tidy()
return {'done'}
