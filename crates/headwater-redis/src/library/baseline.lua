-- Returns the position of the log and the baselines of channels at one moment, and publishes a
-- marker at that moment, so that a node's subscriber connection knows when it has received
-- everything from before. It writes nothing, so it also works while Redis rejects writes: with a
-- full disk, out of memory, on a replica.
--
-- KEYS[1] is the log's prefix. ARGV: the marker's Redis channel, the marker, then names of
-- channels. Returns {epoch, last offset, horizon or '', Redis' clock in seconds, the number of
-- subscribers that the marker reached, `:begun` or '', for each channel its last offset or '', for
-- each channel '1' if a note says that it receives ephemeral events, else ''}; or nil, without a
-- marker, if there is no log yet, or one of its keys is missing or malformed. Then headwater_begin
-- creates it.

local prefix = KEYS[1]
local log = redis.call('MGET', prefix .. ':epoch', prefix .. ':seq', prefix .. ':horizon',
  prefix .. ':begun')
local function is_valid(text, pattern, bytes_max)
  return text and #text <= bytes_max and text:find(pattern)
end
if not (is_valid(log[1], '^[1-9a-f][0-9a-f]*$', 12) and is_valid(log[2], '^%d+$', 16)) then
  return false
end
local answer = { log[1], log[2], log[3] or '', redis.call('TIME')[1], '', log[4] or '' }
local KEYS_MAX = 512 -- in one MGET; Lua bounds the arguments of a call
for _, kind in ipairs({ ':last:', ':plain:' }) do
  for first = 3, #ARGV, KEYS_MAX do
    local command = { 'MGET' }
    for at = first, math.min(first + KEYS_MAX - 1, #ARGV) do
      command[#command + 1] = prefix .. kind .. ARGV[at]
    end
    for at, value in ipairs(redis.call(unpack(command))) do
      if not value and kind == ':last:' then
        value = last_in_history(prefix, ARGV[first + at - 1], tonumber(log[2]))
      end
      answer[#answer + 1] = value or ''
    end
  end
end
answer[5] = tostring(redis.call('PUBLISH', ARGV[1], ARGV[2]))
return answer
