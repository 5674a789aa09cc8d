open()
if epoch then reap(true) end
if not tidy() then index() end
return 'done'
