#!lua
-- Puts a dead drop back into its queue as it was handed in, within Redis, because it may hold much audio. It keeps
-- the drop id that its sender knows. Refused whole at the memory limit.
-- KEYS: dead letters, queue
-- ARGV: letter id, fields of ours before the original ones, drop id for a drop that brings none, or ''
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
local fields, name = {}, ARGV[3]
for i = 1 + 2 * tonumber(ARGV[2]), #entry[2], 2 do
  local field, value = entry[2][i], entry[2][i + 1]
  if field == 'drop' and name ~= '' then
    value, name = name, ''
  end
  fields[#fields + 1] = field
  fields[#fields + 1] = value
end
if name ~= '' then
  fields[#fields + 1] = 'drop'
  fields[#fields + 1] = name
end
if #fields == 0 then fields = {'drop', ''} end
redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
