#!lua flags=allow-oom
-- Takes over entries whose worker was silent for the lease, and delayed retries that are due. All claiming goes
-- through here, so that nothing else can take a retry before its time.
-- KEYS: stream, attempts   ARGV: group, consumer, lease ms, count
-- Returns {entries as {id, fields, deliveries, attempts}, ids whose data is gone}
local group, me, lease, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local taken, gone, from = {}, {}, '-'
while #taken < count do
  local page = redis.call('XPENDING', KEYS[1], group, from, '+', 100)
  for _, p in ipairs(page) do
    local id, owner, idle, deliveries = p[1], p[2], p[3], p[4]
    from = '(' .. id
    local wanted = owner == 'retry' or (owner ~= me and idle >= lease)
    if wanted and #taken < count then
      local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
      if not entry then
        redis.call('XACK', KEYS[1], group, id)
        gone[#gone + 1] = id
      else
        local identity = ''
        local drop = ''
        for i = 1, #entry[2], 2 do
          if entry[2][i] == 'event_id' then identity = entry[2][i + 1] end
          if entry[2][i] == 'drop' then drop = entry[2][i + 1] end
        end
        if identity == '' then identity = drop end
        if identity == '' then identity = id end
        local attempts, due = 0, 0
        local kept = redis.call('HGET', KEYS[2], identity)
        if kept then
          local a, d = string.match(kept, '^(%d+):(%d+)$')
          attempts, due = tonumber(a), tonumber(d)
        end
        if owner ~= 'retry' or due <= now then
          redis.call('XCLAIM', KEYS[1], group, me, 0, id)
          taken[#taken + 1] = {id, entry[2], deliveries + 1, attempts}
        end
      end
    end
  end
  if #page < 100 then break end
end
return {taken, gone}
