#!lua flags=allow-oom
-- Marks a recording deleted or a generation cancelled, and appends the fact that says so. A repeat finds the mark and
-- only keeps it longer. Runs at the memory limit, because what is not wanted is about to free some.
-- KEYS: mark, mark of deletion (the same for a deletion), log, seq, claim (or the mark again)
-- ARGV: seconds the mark is kept, event_id, json, recording whose claim lapses ('' none)
if KEYS[1] ~= KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then return 'deleted' end
if not redis.call('SET', KEYS[1], ARGV[2], 'NX', 'EX', ARGV[1]) then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  return 'repeated'
end
local seq = redis.call('INCR', KEYS[4])
redis.call('XADD', KEYS[3], '*', 'seq', seq, 'event_id', ARGV[2], 'event', ARGV[3])
if ARGV[4] ~= '' then
  local held = redis.call('GET', KEYS[5])
  -- Another recording may hold it by now.
  if held and string.sub(held, 1, #ARGV[4] + 1) == ARGV[4] .. '|' then redis.call('DEL', KEYS[5]) end
end
return 'done'
