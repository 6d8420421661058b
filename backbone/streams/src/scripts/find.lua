#!lua flags=no-writes
-- Finds entries whose event holds a text, in one page of a stream. The caller reads them and decides.
-- KEYS: stream   ARGV: text, id to start at, entries to look at
-- Returns {id to go on at or '', entries}
local page = redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', ARGV[3])
local found = {}
for _, entry in ipairs(page) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'event' and string.find(entry[2][i + 1], ARGV[1], 1, true) then
      found[#found + 1] = entry
      break
    end
  end
end
local last = #page == tonumber(ARGV[3]) and page[#page][1]
return {last and '(' .. last or '', found}
