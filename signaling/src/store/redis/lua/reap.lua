open()
if epoch then reap() end
if not tidy() then index() end
return 'done'
