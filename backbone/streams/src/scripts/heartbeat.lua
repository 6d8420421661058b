#!lua flags=allow-oom
-- Renews the lease on entries that are still this consumer's. JUSTID keeps the delivery count as it is.
-- KEYS: stream   ARGV: group, consumer, ids...   Returns 1 or 0 per id.
local mine = {}
-- A read that waits does not count as a sign of life before Redis 7.2; one of the consumer's own entries does, and
-- behind the last possible id it finds none.
if #ARGV == 2 then
  redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '18446744073709551615-0')
end
for i = 3, #ARGV do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if p and p[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    mine[#mine + 1] = 1
  else
    mine[#mine + 1] = 0
  end
end
return mine
