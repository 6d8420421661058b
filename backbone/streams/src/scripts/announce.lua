#!lua flags=allow-oom
-- Notes a model. Runs at the memory limit, because workers that start then are about to free some.
-- KEYS: models   ARGV: name, note
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
