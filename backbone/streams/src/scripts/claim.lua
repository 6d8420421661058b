#!lua flags=allow-oom
-- Takes over entries whose worker was silent for the lease, and delayed retries that are due. All claiming goes
-- through here, so that nothing else can take a retry before its time.
-- KEYS: stream, attempts   ARGV: group, consumer, lease ms, count
-- Returns {entries as {id, fields, deliveries, attempts}, ids whose data is gone}
local group, me, lease, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local taken, gone = {}, {}

local function take(id, deliveries, is_retry)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if not entry then
    redis.call('XACK', KEYS[1], group, id)
    gone[#gone + 1] = id
    return
  end
  -- As programs read it: the first field of the name; what is empty or not ASCII is no identity.
  local found = {}
  for i = 1, #entry[2], 2 do
    local name, value = entry[2][i], entry[2][i + 1]
    if name == 'event_id' or name == 'drop' then found[name] = found[name] or value end
  end
  local identity = id
  for _, name in ipairs({'drop', 'event_id'}) do
    local value = found[name]
    if value and value ~= '' and not string.find(value, '[\128-\255]') then identity = value end
  end
  local attempts, due = 0, 0
  local kept = redis.call('HGET', KEYS[2], identity)
  if kept then
    local a, d = string.match(kept, '^(%d+):(%d+)$')
    attempts, due = tonumber(a), tonumber(d)
  end
  if is_retry and due > now then return end
  -- Put off without a failure: of the time that is over nothing need be kept.
  if kept and attempts == 0 then redis.call('HDEL', KEYS[2], identity) end
  redis.call('XCLAIM', KEYS[1], group, me, 0, id)
  taken[#taken + 1] = {id, entry[2], deliveries + 1, attempts}
end

-- The server skips what is not idle for long enough, so that a long list of work in good hands costs little.
local from = '-'
while #taken < count do
  local page = redis.call('XPENDING', KEYS[1], group, 'IDLE', lease, from, '+', 100)
  for _, p in ipairs(page) do
    from = '(' .. p[1]
    if p[2] ~= 'retry' and p[2] ~= me and #taken < count then take(p[1], p[4], false) end
  end
  if #page < 100 then break end
end
from = '-'
while #taken < count do
  local page = redis.call('XPENDING', KEYS[1], group, from, '+', 100, 'retry')
  for _, p in ipairs(page) do
    from = '(' .. p[1]
    if #taken < count then take(p[1], p[4], true) end
  end
  if #page < 100 then break end
end
return {taken, gone}
