#!lua flags=allow-oom
-- Removes the oldest facts of a log: those the archive holds and every group has acknowledged, one page at a time. A
-- log that nobody reads is not trimmed. An entry without a seq is no fact; it goes when its groups are done with it.
-- KEYS: log   ARGV: seq that the archive reaches, entries in a page
-- Returns {entries removed, name of the group that holds back what is archived, or ''}
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, ''} end
local archived, most = tonumber(ARGV[1]), tonumber(ARGV[2])

local function parts(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local function after(id)
  local ms, n = parts(id)
  return string.format('%.0f-%.0f', ms, n + 1)
end
local function is_below(a, b)
  local ams, an = parts(a)
  local bms, bn = parts(b)
  return ams < bms or (ams == bms and an < bn)
end

-- The first entry that some group still needs.
local floor, holder
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = {}
  for i = 1, #flat, 2 do info[flat[i]] = flat[i + 1] end
  local oldest = redis.call('XPENDING', KEYS[1], info['name'], '-', '+', 1)[1]
  local needed = oldest and oldest[1] or after(info['last-delivered-id'])
  if not floor or is_below(needed, floor) then floor, holder = needed, info['name'] end
end
if not floor then return {0, ''} end

local last, removed = nil, 0
local page = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', most)
for _, entry in ipairs(page) do
  local seq
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'seq' then seq = tonumber(entry[2][i + 1]) break end
  end
  if seq and seq > archived then holder = '' break end
  if not is_below(entry[1], floor) then break end
  last, removed = entry[1], removed + 1
end
if removed == #page then holder = '' end
if last then redis.call('XTRIM', KEYS[1], 'MINID', after(last)) end
return {removed, holder}
