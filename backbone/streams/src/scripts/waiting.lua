#!lua flags=no-writes
-- Tells whose drop waits under an id, without its audio.
-- KEYS: queues of drops   ARGV: id   Returns the tenant field, '' for a drop without one, or nil for no such drop
for _, queue in ipairs(KEYS) do
  local entry = redis.call('XRANGE', queue, ARGV[1], ARGV[1])[1]
  if entry then
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'tenant' then return entry[2][i + 1] end
    end
    return ''
  end
end
return false
