local to, entry, request = next_arg(), next_arg(), next_arg()
local somebody = open_all(to)
if to == '-' and epoch then
  each(function(_, _, holder) somebody = somebody or holder ~= '-' end)
end
return pass(entry, request, epoch and somebody)
