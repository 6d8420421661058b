#!lua flags=no-writes
-- Lists dead letters. Values over a size are left out and told by their length: some hold audio, of which no call may
-- read much. They are read one by one, and after some bytes the caller goes on after the last one.
-- KEYS: dead letters   ARGV: id to start at, id to end at, count, size in bytes, bytes to read
-- Returns {whether there may be more (1|0), (id, fields, left out as name, length) per letter}
local found, from, read = {}, ARGV[1], 0
while #found < tonumber(ARGV[3]) and read < tonumber(ARGV[5]) do
  local entry = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', 1)[1]
  if not entry then return {0, found} end
  from = '(' .. entry[1]
  local kept, left = {}, {}
  for i = 1, #entry[2], 2 do
    local name, value = entry[2][i], entry[2][i + 1]
    read = read + #name + #value
    if #value > tonumber(ARGV[4]) then
      left[#left + 1] = name
      left[#left + 1] = tostring(#value)
    else
      kept[#kept + 1] = name
      kept[#kept + 1] = value
    end
  end
  found[#found + 1] = {entry[1], kept, left}
end
return {1, found}
