#!lua flags=allow-oom
-- Writes a stream without groups anew, ids kept, one page in a call: a deleted entry leaves its bytes behind, in memory
-- and in every dump, until all its neighbours are deleted too. The last page puts the copy into its place. Whoever
-- removes an entry meanwhile has this one begin again; whoever comes meanwhile waits, or has it begin again.
-- KEYS: stream, room for the copy
-- ARGV: id of the last entry copied ('' begins), entries removed from the stream before, bytes in a page, bytes that may
--       be copied yet, 1 to begin though there is another copy
-- Returns {'done' | 'more' | 'again' | 'wait' | 'large', id of the last entry copied, entries removed, bytes copied by this call}
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2])
  return {'done', '', 0, 0}
end
local info, flat = {}, redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #flat, 2 do info[flat[i]] = flat[i + 1] end
local removed, last, from = info['entries-added'] - info['length'], ARGV[1], '-'
if last == '' then
  if removed > 0 and ARGV[5] ~= '1' and redis.call('EXISTS', KEYS[2]) == 1 then return {'wait', '', removed, 0} end
  redis.call('DEL', KEYS[2])
  if removed == 0 then return {'done', '', 0, 0} end
else
  local copied = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if removed ~= tonumber(ARGV[2]) or not copied or copied[1] ~= last then
    redis.call('DEL', KEYS[2])
    return {'again', '', 0, 0}
  end
  from = '(' .. last
end
local bytes = 0
while bytes < tonumber(ARGV[3]) do
  local entry = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
  if not entry then
    if last == '' then
      redis.call('DEL', KEYS[1])
    else
      redis.call('PERSIST', KEYS[2])
      redis.call('RENAME', KEYS[2], KEYS[1])
    end
    return {'done', last, removed, bytes}
  end
  for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  if bytes > tonumber(ARGV[4]) then
    redis.call('DEL', KEYS[2])
    return {'large', '', removed, bytes}
  end
  redis.call('XADD', KEYS[2], entry[1], unpack(entry[2]))
  last, from = entry[1], '(' .. entry[1]
end
-- What nobody goes on with goes by itself.
redis.call('EXPIRE', KEYS[2], 600)
return {'more', last, removed, bytes}
