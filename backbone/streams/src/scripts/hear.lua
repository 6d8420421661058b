#!lua flags=allow-oom
-- Keeps what one has heard and tells what all have. Runs at the memory limit, because those who ask are about to free
-- more than this takes.
-- KEYS: hash   ARGV: who heard it, what, seconds it is kept
-- Returns whether this one was heard before, then what all heard, by who heard it.
local new = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
local heard = redis.call('HGETALL', KEYS[1])
return {1 - new, heard}
