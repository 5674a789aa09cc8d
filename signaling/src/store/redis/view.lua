if redis.call('EXISTS', meta) == 0 then return {'gone'} end
return view({'view'})
