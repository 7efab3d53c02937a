-- Where the log is at one moment, with a marker published at that moment, so that a node's subscriber connection knows
-- when it has everything from before. Writes nothing, so that it also works when Redis refuses writes: with a full disk,
-- out of memory, on a replica.
--
-- KEYS[1] the log's prefix; ARGV: the marker's Redis channel, the marker, then names of channels. Answers {epoch, last
-- offset, horizon or '', seconds of Redis' clock, for each channel its last offset or '', for each channel '1' if it is
-- noted that it gets plain events, else ''}; nil, and no marker, if there is no log yet.

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
