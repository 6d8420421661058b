#!lua flags=allow-oom
-- Ends entries of one stream, each as if it were alone: its facts and work are appended, it is acknowledged and
-- deleted, its speech freed, at once. The first to finish wins; a repeat, a rewound id or deleted data change nothing.
-- What is deleted or cancelled ends and leaves nothing. Runs at the memory limit, because it frees more than it adds.
-- Several commits share a call, so that what can be done once for all of them is.
-- KEYS: input, attempts, input counter, log, seq, dead letters, then per commit: mark of deletion, mark of
--       cancellation, claim (or a mark again), (queue, counter) per output, the keys to delete
-- ARGV: group, delete input (1|0), input is counted (1|0), commits, then per commit: id, identity, facts, outputs,
--       dead fields, keys to delete, recording whose claim lapses ('' none), (event_id, json) per fact,
--       (event_id, json, ms, bytes) per output, the dead letter's fields
-- Returns an outcome per commit
local group, counted = ARGV[1], ARGV[3] == '1'
local outcomes, acknowledged, forgotten, leftovers, weights = {}, {}, {}, {}, {}
local ended = {}

local function weigh(counter, name, amount)
  local sums = weights[counter] or {ms = 0, bytes = 0}
  weights[counter] = sums
  sums[name] = sums[name] + amount
end

local key, at = 7, 5
for commit = 1, tonumber(ARGV[4]) do
  local id, identity, lapse = ARGV[at], ARGV[at + 1], ARGV[at + 6]
  local facts, outputs = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local dead, deletes = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local deleted, cancelled, claim, queues = KEYS[key], KEYS[key + 1], KEYS[key + 2], key + 3
  local value = at + 7
  key = queues + 2 * outputs + deletes
  at = value + 2 * facts + 4 * outputs + dead

  local outcome, entry
  local field = {}
  if ended[id] or #redis.call('XPENDING', KEYS[1], group, id, id, 1) == 0 then
    outcome = 'lost'
  else
    entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
      local fields = entry[2]
      for i = 1, #fields, 2 do field[fields[i]] = field[fields[i]] or fields[i + 1] end
      -- As programs read it: the first field of the name; what is empty or not ASCII is no identity.
      local found = ''
      for _, name in ipairs({'drop', 'event_id'}) do
        local named = field[name]
        if named and named ~= '' and not string.find(named, '[\128-\255]') then found = named end
      end
      if found ~= identity then outcome = 'mismatch' end
    else
      outcome = 'gone'
    end
  end
  if not outcome then
    outcome = 'done'
    if redis.call('EXISTS', deleted, cancelled) > 0 then
      outcome = redis.call('EXISTS', deleted) == 1 and 'deleted' or 'cancelled'
    end
  end

  if outcome == 'done' then
    if facts > 0 then
      local seq = redis.call('INCRBY', KEYS[5], facts) - facts
      for i = 1, facts do
        local place = string.format('%.0f', seq + i)
        redis.call('XADD', KEYS[4], '*', 'seq', place, 'event_id', ARGV[value], 'event', ARGV[value + 1])
        value = value + 2
      end
    end
    for i = queues, queues + 2 * outputs - 1, 2 do
      local ms, bytes = ARGV[value + 2], ARGV[value + 3]
      redis.call('XADD', KEYS[i], '*', 'event_id', ARGV[value], 'event', ARGV[value + 1], 'ms', ms, 'bytes', bytes)
      weigh(KEYS[i + 1], 'ms', tonumber(ms))
      weigh(KEYS[i + 1], 'bytes', tonumber(bytes))
      value = value + 4
    end
    if dead > 0 then
      local letter = {}
      for i = value, value + dead - 1 do letter[#letter + 1] = ARGV[i] end
      -- A call takes a few thousand arguments; an entry with more fields than any of ours has is cut short.
      for i = 1, math.min(#entry[2], 2000) do letter[#letter + 1] = entry[2][i] end
      redis.call('XADD', KEYS[6], '*', unpack(letter))
    end
  end
  if outcome ~= 'lost' and outcome ~= 'mismatch' then
    ended[id] = true
    acknowledged[#acknowledged + 1] = id
    forgotten[#forgotten + 1] = identity ~= '' and identity or id
  end
  if entry and ended[id] then
    if counted then
      for _, name in ipairs({'ms', 'bytes'}) do
        local weight = field[name]
        if weight and #weight < 16 and string.find(weight, '^[1-9]%d*$') then
          weigh(KEYS[3], name, -tonumber(weight))
        end
      end
    end
    for i = queues + 2 * outputs, key - 1 do leftovers[#leftovers + 1] = KEYS[i] end
    if lapse ~= '' then
      local held = redis.call('GET', claim)
      -- Another recording may hold it by now.
      if held and string.sub(held, 1, #lapse + 1) == lapse .. '|' then leftovers[#leftovers + 1] = claim end
    end
  end
  outcomes[commit] = outcome
end

if #acknowledged > 0 then
  redis.call('XACK', KEYS[1], group, unpack(acknowledged))
  redis.call('HDEL', KEYS[2], unpack(forgotten))
  if ARGV[2] == '1' then
    redis.call('XDEL', KEYS[1], unpack(acknowledged))
    redis.call('HINCRBY', KEYS[3], 'done', #acknowledged)
  end
end
for counter, sums in pairs(weights) do
  for name, amount in pairs(sums) do
    if amount ~= 0 then redis.call('HINCRBY', counter, name, string.format('%.0f', amount)) end
  end
end
if #leftovers > 0 then redis.call('DEL', unpack(leftovers)) end
return outcomes
