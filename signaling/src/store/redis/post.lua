local from, to, id, rest = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3]
return pass(from, to, id, rest, function()
  if to ~= '-' then return redis.call('HEXISTS', members, to) == 1 end
  for _, member in ipairs(redis.call('HKEYS', members)) do
    if load(member).holder ~= '-' then return true end
  end
  return false
end)
