#!lua flags=allow-oom
-- Removes entries of one stream wherever they are held: from the stream, from every group, from the counts. An entry
-- that is not the one expected is left alone. The seq of removed facts are kept for a repeat of the whole erasure.
-- KEYS: stream, counter (or the stream again: nothing is counted), seq list, attempts per group, then keys to delete
-- ARGV: groups, seconds the seq list is kept, the groups' names, then (id, event_id) per entry
-- Returns the number removed
local groups, removed = tonumber(ARGV[1]), 0
for at = 3 + groups, #ARGV, 2 do
  local id = ARGV[at]
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local field = {}
  if entry then
    for i = 1, #entry[2], 2 do field[entry[2][i]] = field[entry[2][i]] or entry[2][i + 1] end
  end
  if entry and (field['event_id'] or '') == ARGV[at + 1] then
    for g = 1, groups do
      redis.call('XACK', KEYS[1], ARGV[2 + g], id)
      redis.call('HDEL', KEYS[3 + g], ARGV[at + 1])
    end
    redis.call('XDEL', KEYS[1], id)
    removed = removed + 1
    if KEYS[2] ~= KEYS[1] then
      for _, name in ipairs({'ms', 'bytes'}) do
        local weight = field[name]
        if weight and #weight < 16 and string.find(weight, '^[1-9]%d*$') then
          redis.call('HINCRBY', KEYS[2], name, '-' .. weight)
        end
      end
    end
    if field['seq'] then
      redis.call('RPUSH', KEYS[3], field['seq'])
      redis.call('EXPIRE', KEYS[3], ARGV[2])
    end
  end
end
for i = 4 + groups, #KEYS do redis.call('DEL', KEYS[i]) end
return removed
