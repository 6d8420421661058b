#!lua
-- Puts a dead drop back into its queue as it was handed in, within Redis, because it may hold much audio. It keeps
-- the drop id that its sender knows. Refused whole at the memory limit.
-- KEYS: dead letters, queue
-- ARGV: letter id, fields of ours before the original ones, drop id to add where the drop names none, or ''
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
local fields, named = {}, false
for i = 1 + 2 * tonumber(ARGV[2]), #entry[2], 2 do
  fields[#fields + 1] = entry[2][i]
  fields[#fields + 1] = entry[2][i + 1]
  named = named or entry[2][i] == 'drop'
end
if not named and ARGV[3] ~= '' then
  fields[#fields + 1] = 'drop'
  fields[#fields + 1] = ARGV[3]
end
if #fields == 0 then fields = {'drop', ''} end
redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
