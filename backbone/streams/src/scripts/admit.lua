#!lua
-- Admits a recording in its own slot: claim, mark, facts and work at once. A repeat finds the mark and writes nothing,
-- and so does a recording that is deleted.
-- Refused whole at the memory limit (no allow-oom): the drop stays in the queue.
-- KEYS: admitted mark, claim (or the mark again), log, seq, queue, queue counter, mark of deletion
-- ARGV: recording, fingerprint, claim or '', seconds the marks are kept, facts, has work (1|0),
--       then (event_id, json) per fact, then event_id, json, ms, bytes of the work
local keep = tonumber(ARGV[4])
if redis.call('EXISTS', KEYS[7]) == 1 then return {'deleted'} end
if redis.call('EXISTS', KEYS[1]) == 1 then return {'repeated'} end
if ARGV[3] ~= '' then
  local holder = redis.call('GET', KEYS[2])
  if holder and string.sub(holder, 1, #ARGV[1]) ~= ARGV[1] then return {'duplicate', holder} end
  redis.call('SET', KEYS[2], ARGV[1] .. '|' .. ARGV[2], 'EX', keep)
end
redis.call('SET', KEYS[1], ARGV[3], 'EX', keep)
local at = 7
for _ = 1, tonumber(ARGV[5]) do
  local seq = redis.call('INCR', KEYS[4])
  redis.call('XADD', KEYS[3], '*', 'seq', seq, 'event_id', ARGV[at], 'event', ARGV[at + 1])
  at = at + 2
end
if ARGV[6] == '1' then
  redis.call('XADD', KEYS[5], '*', 'event_id', ARGV[at], 'event', ARGV[at + 1], 'ms', ARGV[at + 2], 'bytes', ARGV[at + 3])
  redis.call('HINCRBY', KEYS[6], 'ms', ARGV[at + 2])
  redis.call('HINCRBY', KEYS[6], 'bytes', ARGV[at + 3])
end
return {'admitted'}
