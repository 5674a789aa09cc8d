local from, conn, to, id, rest = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3], ARGV[FIRST + 4]
local no = refused(from, which(from, conn))
if no then return no end
return pass(from, to, id, rest, function()
  return to == '-' or redis.call('HEXISTS', members, to) == 1
end)
