local member, secret, holder, known_epoch, wanted =
  next_arg(), next_arg(), next_arg(), next_arg(), next_arg()
local word = open(member)
if not epoch or not word then return 'unknown' end
local conn, _, _, since, known_secret = taken_apart(word)
if known_secret ~= secret then return 'unknown' end
conn = int(conn + 1)
place(member, word, conn, holder)
hold(holder)
announce('a ' .. member .. ' - ' .. conn .. '\n')
return read(known_epoch, wanted, view({'resumed', conn, since}))
