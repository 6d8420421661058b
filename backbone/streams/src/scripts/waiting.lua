#!lua flags=no-writes
-- Tells whose drop waits under its entry's id, without its audio. One that brings an id of its own is known by that.
-- KEYS: queue of drops   ARGV: entry, longest id of its own in bytes
-- Returns the tenant field, '' for a drop without one, or nil for no such drop
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return false end
local field = {}
for i = 1, #entry[2], 2 do field[entry[2][i]] = field[entry[2][i]] or entry[2][i + 1] end
local own = field['drop'] or ''
if #own <= tonumber(ARGV[2]) and string.find(own, '^[%w_-]+$') then return false end
return field['tenant'] or ''
