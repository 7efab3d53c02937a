-- Reads part of a channel's history, bounded by entries and bytes, and the log's last offset.
--
-- KEYS[1] is the log's prefix. ARGV: channel, 'after' or 'newest', the offset to start after, the
-- offset to end with ('+' for all), maximum number of entries, maximum number of bytes. Returns
-- {last offset of the log, entries, epoch}; an entry is {id, {field, value, ...}}. With 'newest'
-- the entries are the newest ones, newest first. The epoch is '' if there is no log.
--
-- Redis cannot bound XRANGE by bytes, and serves nobody while it reads, so a call fetches as many
-- entries as surely fit: publish.lua records the size of the largest one. If it is unknown or
-- large, entries are fetched singly, and fewer of them. Only the last entry may exceed the bound.

-- Bytes of an entry beside its data, at most: name, ID, numbers, and what Redis adds.
local OVERHEAD_BYTES = 1024
-- The maximum number of fetches: half a millisecond if each gets one small entry.
local FETCHES_MAX = 64

local log = KEYS[1] .. ':log:' .. ARGV[1]
local is_newest, count, bytes = ARGV[2] == 'newest', tonumber(ARGV[5]), tonumber(ARGV[6])
local values = redis.call('MGET', KEYS[1] .. ':seq', KEYS[1] .. ':size:' .. ARGV[1],
  KEYS[1] .. ':epoch')
local last = (values[1] or ''):match('^%d+$') or '0'
local largest = tonumber((values[2] or ''):match('^%d+ %d+ (%d+)$'))
local entry_bytes_max = (largest or bytes) + OVERHEAD_BYTES

local entries, fetches = {}, 0
local from, to = '(' .. ARGV[3], ARGV[4]
while #entries < count and bytes > 0 and fetches < FETCHES_MAX do
  fetches = fetches + 1
  local fitting = math.max(math.floor(bytes / entry_bytes_max), 1)
  local wanted = math.min(fitting, count - #entries)
  local fetched
  if is_newest then
    fetched = redis.call('XREVRANGE', log, to, '-', 'COUNT', wanted)
  else
    fetched = redis.call('XRANGE', log, from, to, 'COUNT', wanted)
  end
  for _, entry in ipairs(fetched) do
    entries[#entries + 1] = entry
    for _, text in ipairs(entry[2]) do
      bytes = bytes - #text
    end
  end
  if #fetched < wanted then
    break
  end
  from, to = '(' .. entries[#entries][1], is_newest and '(' .. entries[#entries][1] or to
end
return {last, entries, values[3] or ''}
