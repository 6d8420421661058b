#!lua flags=allow-oom
-- Appends facts and work that follow from no entry in hand, once for each act. A repeat finds the mark and writes
-- nothing. With work it is run without allow-oom: refused whole at the memory limit.
-- KEYS: mark of the act, mark of deletion, log, seq, queue, queue counter
-- ARGV: seconds the mark is kept, facts, has work (1|0),
--       then (event_id, json) per fact, then event_id, json, ms, bytes of the work
if redis.call('EXISTS', KEYS[2]) == 1 then return 'deleted' end
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then return 'repeated' end
local at = 4
for _ = 1, tonumber(ARGV[2]) do
  local seq = redis.call('INCR', KEYS[4])
  redis.call('XADD', KEYS[3], '*', 'seq', seq, 'event_id', ARGV[at], 'event', ARGV[at + 1])
  at = at + 2
end
if ARGV[3] == '1' then
  local ms, bytes = ARGV[at + 2], ARGV[at + 3]
  redis.call('XADD', KEYS[5], '*', 'event_id', ARGV[at], 'event', ARGV[at + 1], 'ms', ms, 'bytes', bytes)
  redis.call('HINCRBY', KEYS[6], 'ms', ms)
  redis.call('HINCRBY', KEYS[6], 'bytes', bytes)
end
return 'done'
