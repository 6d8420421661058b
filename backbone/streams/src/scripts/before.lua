#!lua flags=allow-oom
-- Tells what the segment before another one left. It has ended once its speech is gone. Since when others have had to
-- wait is noted by the first of them, until one more leaves a text. Runs at the memory limit, because those who ask are
-- about to free more than this takes.
-- KEYS: tails, speech of the segment before   ARGV: round and channel, index of the segment before, seconds they are kept
-- Returns {1, its tail or ''} or {0, '', segments up to it that have not ended, ms since others wait}
if redis.call('EXISTS', KEYS[2]) == 0 then
  return {1, redis.call('HGET', KEYS[1], ARGV[1] .. ':' .. ARGV[2]) or '', 0, 0}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSETNX', KEYS[1], ARGV[1] .. ':since', string.format('%.0f', now))
redis.call('EXPIRE', KEYS[1], ARGV[3])
local since = tonumber(redis.call('HGET', KEYS[1], ARGV[1] .. ':since'))
local last = tonumber(redis.call('HGET', KEYS[1], ARGV[1] .. ':last') or '-1')
return {0, '', math.max(tonumber(ARGV[2]) - last, 1), math.max(now - since, 0)}
