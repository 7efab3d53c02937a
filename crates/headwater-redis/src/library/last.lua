-- The last offset of a channel whose key `:last:` is gone, evicted or deleted, as that key would
-- have it: from the newest entry of its history. Returns nil if the history has none, or is of
-- another log. publish.lua and baseline.lua need it.

local function last_in_history(prefix, channel, log_last)
  local found = redis.pcall('XREVRANGE', prefix .. ':log:' .. channel, '+', '-', 'COUNT', 1)
  local entry = type(found) == 'table' and found[1]
  local offset = entry and entry[1]:match('^%d+')
  if not offset or tonumber(offset) > log_last then
    return nil
  end
  for at = 1, #entry[2], 2 do
    if entry[2][at] == 'e' then
      return offset .. ' end'
    end
  end
  return offset
end
