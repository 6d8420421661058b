#!lua flags=allow-oom
-- Keeps what a segment leaves for the next one. The one before it is still kept, because this segment may be read again;
-- of earlier ones nothing is. What is deleted or cancelled leaves nothing. Runs at the memory limit, because the commit
-- that follows frees more than this takes.
-- KEYS: tails, mark of deletion, mark of cancellation   ARGV: round and channel, index, tail, seconds they are kept
if redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then return 0 end
local index = tonumber(ARGV[2])
local last = tonumber(redis.call('HGET', KEYS[1], ARGV[1] .. ':last') or '-1')
-- A later one did not wait for this one: nobody asks for it any more.
if index < last then return 0 end
for old = last - 1, math.min(last, index - 2) do
  redis.call('HDEL', KEYS[1], ARGV[1] .. ':' .. string.format('%.0f', old))
end
redis.call('HSET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], ARGV[3], ARGV[1] .. ':last', ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1] .. ':since')
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
