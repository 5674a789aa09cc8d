open()
if not epoch then return 'gone' end
return view({'view'})
