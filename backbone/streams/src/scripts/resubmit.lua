#!lua
-- Puts a dead drop back into its queue as it was handed in, within Redis, because it may hold much audio. It keeps
-- the drop id that its sender knows. Refused whole at the memory limit.
-- A repeat finds the mark and writes nothing.
-- KEYS: dead letters, queue, mark of the letter
-- ARGV: letter id, fields of ours before the original ones, drop id for a drop that brings none, or '', seconds the mark
--       is kept
-- Returns 1, or 0 when it was gone
if redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
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
redis.call('SET', KEYS[3], '1', 'EX', ARGV[4])
return 1
