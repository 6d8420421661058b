#!lua flags=no-writes
-- Reads facts above a seq, without a group. seq grows with the id, so the place is found by halving the time between
-- the oldest and the newest fact.
-- KEYS: log   ARGV: seq to read after, count
local after, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local function seq_of(entry)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'seq' then return tonumber(entry[2][i + 1]) or 0 end
  end
  return 0
end
local function ms_of(id) return tonumber(string.match(id, '^%d+')) end

local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not oldest then return {} end
local low = ms_of(oldest[1])
if seq_of(oldest) <= after then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if seq_of(newest) <= after then return {} end
  -- The first entry at or after `low` is never above the seq, the first at or after `high` always is.
  local high = ms_of(newest[1]) + 1
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('XRANGE', KEYS[1], string.format('%.0f', middle), '+', 'COUNT', 1)[1]
    if entry and seq_of(entry) <= after then low = middle else high = middle end
  end
end
local found, from = {}, string.format('%.0f', low)
repeat
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', count)
  for _, entry in ipairs(page) do
    if #found < count and seq_of(entry) > after then found[#found + 1] = entry end
    from = '(' .. entry[1]
  end
until #found == count or #page < count
return found
