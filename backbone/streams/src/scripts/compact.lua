#!lua flags=allow-oom
-- Writes a stream without groups anew, ids kept: a deleted entry leaves its bytes behind, in memory and in every
-- dump, until all its neighbours are deleted too.
-- KEYS: stream, room for the copy
redis.call('DEL', KEYS[2])
local from, kept = '-', 0
repeat
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 100)
  for _, entry in ipairs(page) do
    redis.call('XADD', KEYS[2], entry[1], unpack(entry[2]))
    from, kept = '(' .. entry[1], kept + 1
  end
until #page < 100
if kept > 0 then
  redis.call('RENAME', KEYS[2], KEYS[1])
else
  redis.call('DEL', KEYS[1])
end
return kept
