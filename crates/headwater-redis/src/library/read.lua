-- Reads part of a channel's history, bounded by count and bytes, with the log's last offset.
--
-- KEYS[1] the log's prefix; ARGV: channel, 'after' or 'newest', an offset to begin after, an offset to
-- end with ('+' for all), most entries, most bytes. Answers {last offset of the log, entries}; an entry
-- is {id, {field, value, ...}}. With 'newest' the entries are the newest ones, newest first.

local log = KEYS[1] .. ':log:' .. ARGV[1]
local last = redis.call('GET', KEYS[1] .. ':seq') or '0'
local entries
if ARGV[2] == 'newest' then
  entries = redis.call('XREVRANGE', log, ARGV[4], '-', 'COUNT', ARGV[5])
else
  entries = redis.call('XRANGE', log, '(' .. ARGV[3], ARGV[4], 'COUNT', ARGV[5])
end
local bytes, kept = 0, {}
for _, entry in ipairs(entries) do
  for _, text in ipairs(entry[2]) do
    bytes = bytes + #text
  end
  -- One entry alone may be larger.
  if #kept > 0 and bytes > tonumber(ARGV[6]) then
    break
  end
  kept[#kept + 1] = entry
end
return {last, kept}
