#!lua flags=allow-oom
-- Ends an entry: facts and work are appended, the entry acknowledged and deleted, its speech freed, at once.
-- The first to finish wins; a repeat, a rewound id or deleted data change nothing. What is deleted or cancelled ends
-- and leaves nothing. Runs at the memory limit, because it frees more than it adds.
-- KEYS: input, attempts, input counter, log, seq, mark of deletion, mark of cancellation, dead letters,
--       claim (or the mark again),
--       then (queue, counter) per output, then the keys to delete
-- ARGV: group, id, identity, delete input (1|0), facts, outputs, dead fields, recording whose claim lapses ('' none),
--       then (event_id, json) per fact, (event_id, json, ms, bytes) per output, then the dead letter's fields
local group, id, identity = ARGV[1], ARGV[2], ARGV[3]
local facts, outputs, dead = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

if #redis.call('XPENDING', KEYS[1], group, id, id, 1) == 0 then return 'lost' end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
if not entry then
  redis.call('XACK', KEYS[1], group, id)
  redis.call('HDEL', KEYS[2], identity ~= '' and identity or id)
  return 'gone'
end
local field = {}
for i = 1, #entry[2], 2 do field[entry[2][i]] = field[entry[2][i]] or entry[2][i + 1] end
-- As programs read it: the first field of the name; what is empty or not ASCII is no identity.
local function id_in(name)
  local value = field[name]
  return value and value ~= '' and not string.find(value, '[\128-\255]') and value
end
if (id_in('event_id') or id_in('drop') or '') ~= identity then return 'mismatch' end

local unwanted = redis.call('EXISTS', KEYS[6], KEYS[7]) > 0
local at = 9
for _ = 1, facts do
  if not unwanted then
    local seq = redis.call('INCR', KEYS[5])
    redis.call('XADD', KEYS[4], '*', 'seq', seq, 'event_id', ARGV[at], 'event', ARGV[at + 1])
  end
  at = at + 2
end
for i = 0, outputs - 1 do
  local queue, counter = KEYS[10 + 2 * i], KEYS[11 + 2 * i]
  if not unwanted then
    redis.call('XADD', queue, '*', 'event_id', ARGV[at], 'event', ARGV[at + 1], 'ms', ARGV[at + 2], 'bytes', ARGV[at + 3])
    redis.call('HINCRBY', counter, 'ms', ARGV[at + 2])
    redis.call('HINCRBY', counter, 'bytes', ARGV[at + 3])
  end
  at = at + 4
end
if dead > 0 and not unwanted then
  local letter = {}
  for i = at, at + dead - 1 do letter[#letter + 1] = ARGV[i] end
  -- A call takes a few thousand arguments; an entry with more fields than any of ours has is cut short.
  for i = 1, math.min(#entry[2], 2000) do letter[#letter + 1] = entry[2][i] end
  redis.call('XADD', KEYS[8], '*', unpack(letter))
end

redis.call('XACK', KEYS[1], group, id)
redis.call('HDEL', KEYS[2], identity ~= '' and identity or id)
if ARGV[4] == '1' then
  redis.call('XDEL', KEYS[1], id)
  -- Nobody counts drops, and their fields may say anything.
  for _, name in ipairs({'ms', 'bytes'}) do
    local weight = field[name]
    if weight and #weight < 16 and string.find(weight, '^[1-9]%d*$') and redis.call('HEXISTS', KEYS[3], name) == 1 then
      redis.call('HINCRBY', KEYS[3], name, '-' .. weight)
    end
  end
end
for i = 10 + 2 * outputs, #KEYS do redis.call('DEL', KEYS[i]) end
if ARGV[8] ~= '' then
  local held = redis.call('GET', KEYS[9])
  -- Another recording may hold it by now.
  if held and string.sub(held, 1, #ARGV[8] + 1) == ARGV[8] .. '|' then redis.call('DEL', KEYS[9]) end
end
if unwanted then return redis.call('EXISTS', KEYS[6]) == 1 and 'deleted' or 'cancelled' end
return 'done'
