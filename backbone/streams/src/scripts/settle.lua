#!lua flags=allow-oom
-- Settles a value once: the first to say wins, and all get the winner's answer. Runs at the memory limit, because
-- those who ask are about to free more than this takes.
-- KEYS: value   ARGV: proposal, seconds it is kept
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
return redis.call('GET', KEYS[1])
