#!lua flags=allow-oom
-- Puts a dead letter back to life: facts and work are appended and the letter removed, at once. A repeat finds the mark
-- and writes nothing; work that another letter, or an act, has asked for already is not asked for twice. Whose recording
-- is deleted or whose generation is cancelled is only removed. With work it is run without allow-oom.
-- KEYS: dead letters, mark of deletion, mark of cancellation, log, seq, queue, queue counter, mark of the letter,
--       mark of the act
-- ARGV: letter id, seconds the marks are kept, facts, has work (1|0), then (event_id, json) per fact, then event_id, json,
--       ms, bytes of the work
-- Returns 1, or 0 when it was gone or is not wanted
if redis.call('EXISTS', KEYS[8]) == 1 then return 1 end
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return 0 end
redis.call('SET', KEYS[8], '1', 'EX', ARGV[2])
if ARGV[4] == '1' and not redis.call('SET', KEYS[9], '1', 'NX', 'EX', ARGV[2]) then return 1 end
local at = 5
for _ = 1, tonumber(ARGV[3]) do
  local seq = redis.call('INCR', KEYS[5])
  redis.call('XADD', KEYS[4], '*', 'seq', seq, 'event_id', ARGV[at], 'event', ARGV[at + 1])
  at = at + 2
end
if ARGV[4] == '1' then
  local ms, bytes = ARGV[at + 2], ARGV[at + 3]
  redis.call('XADD', KEYS[6], '*', 'event_id', ARGV[at], 'event', ARGV[at + 1], 'ms', ms, 'bytes', bytes)
  redis.call('HINCRBY', KEYS[7], 'ms', ms)
  redis.call('HINCRBY', KEYS[7], 'bytes', bytes)
end
return 1
