local member, secret = next_arg(), next_arg()
local word = open(member)
return epoch and word and select(5, taken_apart(word)) == secret and 'known' or 'unknown'
