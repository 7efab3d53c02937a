-- Returns the position of the log and the baselines of channels at one moment, and publishes a
-- marker at that moment, so that a node's subscriber connection knows when it has received
-- everything from before. It writes nothing, so it also works while Redis rejects writes: with a
-- full disk, out of memory, on a replica.
--
-- KEYS[1] is the log's prefix. ARGV: the marker's Redis channel, the marker, then names of
-- channels. Returns {epoch, last offset, horizon or '', Redis' clock in seconds, for each channel
-- its last offset or '', for each channel '1' if a note says that it receives ephemeral events,
-- else ''}; or nil, without a marker, if there is no log yet.

local prefix = KEYS[1]
local log = redis.call('MGET', prefix .. ':epoch', prefix .. ':seq', prefix .. ':horizon')
if not (log[1] and log[2]) then
  return false
end
local answer = { log[1], log[2], log[3] or '', redis.call('TIME')[1] }
for _, kind in ipairs({ ':last:', ':plain:' }) do
  for at = 3, #ARGV do
    answer[#answer + 1] = redis.call('GET', prefix .. kind .. ARGV[at]) or ''
  end
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return answer
