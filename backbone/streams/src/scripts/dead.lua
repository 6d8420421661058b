#!lua flags=no-writes
-- Lists dead letters. Values over a size are left out and told by their length: some hold audio.
-- KEYS: dead letters   ARGV: id to start at, id to end at, count, size in bytes
-- Returns (id, fields, left out as name, length) per letter
local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  local kept, left = {}, {}
  for i = 1, #entry[2], 2 do
    local name, value = entry[2][i], entry[2][i + 1]
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
return found
