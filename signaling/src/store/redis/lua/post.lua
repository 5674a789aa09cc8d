local to, entry, request = next_arg(), next_arg(), next_arg()
local somebody = open(to)
if to == '-' and epoch then
  somebody = false
  each(function(_, word) somebody = somebody or match(word, '^%d+ (%S+)') ~= '-' end)
end
-- one without a request does not come again
local before = epoch and request ~= '' and before(request)
if before then return before end
if not epoch or not somebody then return 'nobody' end
append(entry)
if request ~= '' then remember(request) end
return at()
