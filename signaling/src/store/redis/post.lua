local from, id, rest = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2]
return pass(from, '-', id, rest, function()
  for _, member in ipairs(redis.call('HKEYS', members)) do
    if load(member).holder ~= '-' then return true end
  end
  return false
end)
