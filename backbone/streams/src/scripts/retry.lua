#!lua flags=allow-oom
-- Puts an entry off: it stays pending under the consumer `retry` until its due time.
-- KEYS: stream, attempts   ARGV: group, id, attempts key, attempts, delay ms
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 0 end
local time = redis.call('TIME')
local due = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[5])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4] .. ':' .. string.format('%.0f', due))
redis.call('XCLAIM', KEYS[1], ARGV[1], 'retry', 0, ARGV[2], 'JUSTID')
return 1
