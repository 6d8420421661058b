#!lua flags=allow-oom
-- Takes or renews the lease on a chore. It ends by itself when its holder goes silent.
-- KEYS: lease   ARGV: holder, length ms
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
