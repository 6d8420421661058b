#!lua
-- Emits one part of a streaming decode: moves the cursor by compare-and-set, puts the speech that went ahead into its
-- place, appends the work. Refused whole at the memory limit (no allow-oom): the part is emitted again when there is
-- room.
-- KEYS: input, mark of deletion, mark of cancellation, cursor, queue, queue counter, speech, speech that went ahead
-- ARGV: group, id, identity, expected cursor, next cursor, event_id, json, ms, bytes
local group, id, identity = ARGV[1], ARGV[2], ARGV[3]
local function check()
  if #redis.call('XPENDING', KEYS[1], group, id, id, 1) == 0 then return 'lost' end
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then return 'gone' end
  local field = {}
  for i = 1, #entry[2], 2 do field[entry[2][i]] = field[entry[2][i]] or entry[2][i + 1] end
  if (field['event_id'] or '') ~= identity then return 'mismatch' end
  if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then
    return redis.call('EXISTS', KEYS[2]) == 1 and 'deleted' or 'cancelled'
  end
  local cursor = redis.call('GET', KEYS[4]) or ''
  if cursor == ARGV[5] then return 'repeated' end
  if cursor ~= ARGV[4] then return 'stale' end
end

local refused = check()
if refused then
  redis.call('DEL', KEYS[8])
  return refused
end
if redis.call('EXISTS', KEYS[8]) == 0 then return 'speechless' end
redis.call('RENAME', KEYS[8], KEYS[7])
redis.call('PERSIST', KEYS[7])
redis.call('SET', KEYS[4], ARGV[5])
redis.call('XADD', KEYS[5], '*', 'event_id', ARGV[6], 'event', ARGV[7], 'ms', ARGV[8], 'bytes', ARGV[9])
redis.call('HINCRBY', KEYS[6], 'ms', ARGV[8])
redis.call('HINCRBY', KEYS[6], 'bytes', ARGV[9])
return 'done'
