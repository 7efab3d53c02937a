-- Reads part of a channel's history, bounded by entries and bytes, and the log's last offset.
--
-- KEYS[1] is the log's prefix. ARGV: channel, 'after' or 'newest', the offset to start after, the
-- offset to end with ('+' for all), maximum number of entries, maximum number of bytes. Returns
-- {last offset of the log, entries}; an entry is {id, {field, value, ...}}. With 'newest' the
-- entries are the newest ones, newest first.

local log = KEYS[1] .. ':log:' .. ARGV[1]
local last = redis.call('GET', KEYS[1] .. ':seq') or '0'
local entries
if ARGV[2] == 'newest' then
  entries = redis.call('XREVRANGE', log, ARGV[4], '-', 'COUNT', ARGV[5])
else
  entries = redis.call('XRANGE', log, '(' .. ARGV[3], ARGV[4], 'COUNT', ARGV[5])
end
local bytes, selected = 0, {}
for _, entry in ipairs(entries) do
  for _, text in ipairs(entry[2]) do
    bytes = bytes + #text
  end
  -- A single entry may be larger.
  if #selected > 0 and bytes > tonumber(ARGV[6]) then
    break
  end
  selected[#selected + 1] = entry
end
return {last, selected}
