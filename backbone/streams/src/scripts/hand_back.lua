#!lua flags=allow-oom
-- Gives entries back: they look long idle, so the next claim takes them, and this delivery is not counted.
-- KEYS: stream   ARGV: group, consumer, ids...
for i = 3, #ARGV do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if p and p[2] == ARGV[2] then
    local count = math.max(p[4] - 1, 0)
    redis.call('XCLAIM', KEYS[1], ARGV[1], 'handoff', 0, ARGV[i], 'IDLE', 3600000, 'RETRYCOUNT', count, 'JUSTID')
  end
end
return 1
