#!lua flags=allow-oom
-- Notes a model. Runs at the memory limit, because workers that start then are about to free some.
-- KEYS: models, the model's sign of life   ARGV: name, note, ms that the sign lasts
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], '', 'PX', ARGV[3])
return 1
