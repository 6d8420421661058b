#!lua flags=allow-oom
-- Puts an entry off, if it is still this consumer's: it stays pending under the consumer `retry` until its due time.
-- Its deliveries are forgotten: they tell of workers that died, and this one did not.
-- KEYS: stream, attempts   ARGV: group, consumer, id, attempts key, attempts, delay ms   Returns 1 or 0.
local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if not p or p[2] ~= ARGV[2] then return 0 end
local time = redis.call('TIME')
local due = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[6])
redis.call('HSET', KEYS[2], ARGV[4], ARGV[5] .. ':' .. string.format('%.0f', due))
redis.call('XCLAIM', KEYS[1], ARGV[1], 'retry', 0, ARGV[3], 'RETRYCOUNT', 0, 'JUSTID')
return 1
