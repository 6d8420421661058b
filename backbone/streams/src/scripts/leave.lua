#!lua flags=allow-oom
-- Removes a consumer only while it holds nothing: XGROUP DELCONSUMER drops what is pending without a word.
-- KEYS: stream   ARGV: group, consumer
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
