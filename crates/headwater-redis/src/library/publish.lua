#!lua name=headwater
-- Publishes retained events: sequence, log, idempotency key, end and Pub/Sub in one atomic call.
-- Look here for what the Redis function does; docs/redis-function.md is its contract.
--
-- One source for two ways: Redis 7 and Valkey load it as a function library, and Redis 6.2 runs it
-- with EVAL, without the first line. library/mod.rs does both.

local VERSION = 1

-- Bounds. Arguments have the bounds of limits.rs; a test in library/mod.rs compares the numbers.
local CHANNEL_BYTES_MAX = 255
local NAME_BYTES_MAX = 255
local ID_BYTES_MAX = 255
local KEY_BYTES_MAX = 255
local DATA_BYTES_MAX = 8388608
local RETRY_MS_MAX = 4294967295
-- The largest whole number that a double represents exactly.
local NUMBER_MAX = 9007199254740991
-- Far more than a configuration needs; the rules are copied on every call.
local RULES_BYTES_MAX = 65536
-- The maximum that one call trims: more than it adds, and at most a few milliseconds of work.
local TRIM_ENTRIES_MAX = 64
local TRIM_BYTES_MAX = DATA_BYTES_MAX
-- How long an idempotency key is retained: longer than any sensible series of attempts.
local KEY_WINDOW_MS = 600000
-- How much longer than its history a channel's last offset and its end are retained.
local LAST_EXTRA_MS = 86400000
-- How often the sequence is noted in the horizon, which dates offsets for nodes.
local HORIZON_STEP_MS = LAST_EXTRA_MS / 2
-- More offsets than a Redis that restarts from an old snapshot can have lost.
local RESTART_JUMP = 4294967296
-- The retention where no rule matches.
local DEFAULT_RULES = '* 1000 600000 8388608'

-- State of the library. A restart of Redis clears it, and EVAL has no state.
local rules_text = nil
local rules = nil
-- Whether the log was written since Redis started. EVAL cannot know, so there the node makes the
-- jump.
local started = not redis.register_function

-- A whole number as text; `..` would write large ones with an exponent.
local function digits(number)
  return string.format('%.0f', number)
end

-- A whole number from 1 to NUMBER_MAX, or nil.
local function count(text)
  local number = tonumber(text)
  if #text <= 16 and number >= 1 and number <= NUMBER_MAX then
    return number
  end
  return nil
end

-- Whether text is UTF-8: all valid sequences are replaced, and any other bytes are left.
local function is_utf8(text)
  if not text:find('[\128-\255]') then
    return true
  end
  text = text:gsub('[\194-\223][\128-\191]', '.')
  text = text:gsub('\224[\160-\191][\128-\191]', '.')
  text = text:gsub('\237[\128-\159][\128-\191]', '.')
  text = text:gsub('[\225-\236\238\239][\128-\191][\128-\191]', '.')
  text = text:gsub('\240[\144-\191][\128-\191][\128-\191]', '.')
  text = text:gsub('[\241-\243][\128-\191][\128-\191][\128-\191]', '.')
  text = text:gsub('\244[\128-\143][\128-\191][\128-\191]', '.')
  return not text:find('[\128-\255]')
end

-- The checks return an error message, or nil. Their counterparts in Rust are the types in
-- channel.rs, event.rs and publish.rs.

local function length_error(what, text, bytes_max, advice)
  if #text == 0 then
    return what .. ' is empty: ' .. advice
  end
  if #text > bytes_max then
    return what .. ' has ' .. #text .. ' bytes: at most ' .. bytes_max .. ' are allowed'
  end
end

local function text_error(what, text, bytes_max, advice)
  local err = length_error(what, text, bytes_max, advice)
  if err then
    return err
  end
  if not is_utf8(text) then
    return what .. ' is not UTF-8: encode it as UTF-8'
  end
  local at = text:find('[%z\1-\31\127]')
  local c1 = text:find('\194[\128-\159]')
  if at or c1 then
    local code = text:byte(at or c1 + 1)
    if at and c1 and c1 < at then
      at, code = c1, text:byte(c1 + 1)
    end
    return string.format('%s has the control character U+%04X at byte %d: leave it out',
      what, code, (at or c1) - 1)
  end
end

local function channel_error(channel)
  local err = text_error("a channel's name", channel, CHANNEL_BYTES_MAX,
    'give it at least one character')
  if not err and channel:sub(1, 10) == 'headwater:' then
    return 'channel names that begin with "headwater:" are reserved: choose another name'
  end
  return err
end

-- IDs and keys are sent as request headers.
local function header_error(what, text, bytes_max)
  local err = length_error(what, text, bytes_max, 'leave it out instead')
  local at = text:find('[^\33-\126]')
  if not err and at then
    return string.format('%s has 0x%02X at byte %d, and travels in request headers: use only '
      .. 'visible ASCII without spaces', what, text:byte(at), at - 1)
  end
  return err
end

local function retry_error(retry)
  if not retry:find('^%d+$') or #retry > 10 or tonumber(retry) > RETRY_MS_MAX then
    return "an event's retry must be whole milliseconds from 0 to " .. digits(RETRY_MS_MAX)
      .. ': write only digits'
  end
end

local function end_error(value)
  if value ~= '1' then
    return 'end must be 1: leave it out for an event that is not the last'
  end
end

local OPTION_ERRORS = {
  event = function(name)
    return text_error("an event's name", name, NAME_BYTES_MAX, 'leave it out instead')
  end,
  id = function(id)
    return header_error("an event's id", id, ID_BYTES_MAX)
  end,
  retry = retry_error,
  key = function(key)
    return header_error('an idempotency key', key, KEY_BYTES_MAX)
  end,
  ['end'] = end_error,
}

-- Returns the event in the arguments; or nil and an error message.
local function read_arguments(keys, args)
  if #keys ~= 1 or keys[1] == '' or #args < 2 then
    return nil, 'give one key, a channel and data: FCALL headwater_publish 1 headwater:{0} CHANNEL '
      .. 'DATA [event NAME] [id ID] [retry MS] [key KEY] [end 1]'
  end
  local event = { channel = args[1], data = args[2] }
  local err = channel_error(event.channel)
  if err then
    return nil, err
  end
  if #event.data > DATA_BYTES_MAX then
    return nil, "an event's data has " .. #event.data .. ' bytes: at most ' .. DATA_BYTES_MAX
      .. ' are allowed'
  end
  for at = 3, #args, 2 do
    local option, value = args[at]:lower(), args[at + 1]
    local shown = args[at]:sub(1, 40):gsub('[^\32-\126]', '?')
    if not OPTION_ERRORS[option] then
      return nil, 'there is no option "' .. shown
        .. '": use event, id, retry, key and end, each with a value'
    end
    if not value then
      return nil, 'the option "' .. shown .. '" has no value: give it one, or leave the option out'
    end
    if event[option] then
      return nil, 'the option "' .. shown .. '" is given twice: give it once'
    end
    err = OPTION_ERRORS[option](value)
    if err then
      return nil, err
    end
    event[option] = value
  end
  event.retry = event.retry and digits(tonumber(event.retry))
  return event
end

-- Parses the rules' text form: lines `PATTERN EVENTS AGE_MS BYTES` or `PATTERN off`. A pattern may
-- contain spaces, so a line is parsed from its end. Returns nil and an error message if a line is
-- invalid.
local function parse_rules(text)
  if #text > RULES_BYTES_MAX then
    return nil, 'the retention rules have ' .. #text .. ' bytes: at most ' .. RULES_BYTES_MAX
      .. ' are allowed'
  end
  local parsed, line_number = {}, 0
  for line in text:gmatch('([^\n]*)\n?') do
    line_number = line_number + 1
    local pattern, events, age, bytes = line:match('^(.+) (%d+) (%d+) (%d+)$')
    local rule = pattern and { events = count(events), age = count(age), bytes = count(bytes) }
    if rule and rule.age then
      rule.log_ttl_ms = digits(rule.age)
      rule.last_ttl_ms = digits(rule.age + LAST_EXTRA_MS)
    end
    if not pattern then
      pattern = line:match('^(.+) off$')
      rule = pattern and { off = true }
    end
    if rule and (rule.off or (rule.events and rule.age and rule.bytes)) then
      rule.open = pattern:sub(-1) == '*'
      rule.name = rule.open and pattern:sub(1, -2) or pattern
      parsed[#parsed + 1] = rule
    elseif line ~= '' then
      return nil, 'line ' .. line_number .. ' of the retention rules is broken: write PATTERN '
        .. 'EVENTS AGE_MS BYTES, each number at least 1, or PATTERN off'
    end
  end
  return parsed
end

-- Returns the first rule that matches a channel; or nil and an error message for the rules.
local function rule_of(channel, text)
  if text ~= rules_text then
    local parsed, err = parse_rules(text .. '\n' .. DEFAULT_RULES)
    if err then
      return nil, err
    end
    rules, rules_text = parsed, text
  end
  for _, rule in ipairs(rules) do
    if channel == rule.name or (rule.open and channel:sub(1, #rule.name) == rule.name) then
      return rule
    end
  end
end

-- The payload that is published; envelope.rs describes its format.
local function envelope(event, headers)
  local function header(name, value)
    if value then
      headers = headers .. name .. ': ' .. value .. '\n'
    end
  end
  header('event', event.event)
  header('id', event.id)
  header('retry', event.retry)
  header('end', event['end'])
  return headers .. '\n' .. event.data
end

-- Publishes an event of a channel whose retention is off.
local function publish_only(prefix, event)
  if event.event or event.id or event.retry then
    redis.call('PUBLISH', prefix .. ':' .. event.channel, envelope(event, ''))
  else
    redis.call('PUBLISH', event.channel, event.data)
  end
end

-- Stores and returns a random epoch for a new sequence.
local function make_epoch(prefix, time, old)
  local entropy = table.concat({ time[1], time[2], tostring({}), old or '' }, ' ')
  local epoch = redis.sha1hex(entropy):sub(1, 12):gsub('^0', '1')
  redis.call('DEL', prefix .. ':horizon')
  redis.call('SET', prefix .. ':epoch', epoch)
  return epoch
end

-- Returns the epoch and the next offset. The epoch is new if it or the sequence is missing.
local function next_position(prefix, epoch, seq, time)
  if epoch and seq then
    if started then
      return epoch, seq + 1
    end
    -- The first event since Redis started, perhaps from a snapshot older than what subscribers have
    -- seen: the jump ensures that no offset is used twice.
    return epoch, seq + RESTART_JUMP + 1
  end
  local made = make_epoch(prefix, time, epoch)
  -- If only the sequence was lost, channels may still have logs. The time in microseconds is above
  -- any offset in them.
  return made, seq and seq + 1 or (epoch and tonumber(time[1]) * 1000000 + tonumber(time[2]) or 1)
end

-- Appends the event to its channel's log.
local function append(log, offset, prev, now, event)
  local entry = { 'XADD', log, offset .. '-0', 't', now, 'p', prev, 'd', event.data }
  local function field(name, value)
    if value then
      entry[#entry + 1] = name
      entry[#entry + 1] = value
    end
  end
  field('n', event.event)
  field('i', event.id)
  field('r', event.retry)
  field('e', event['end'])
  local answer = redis.pcall(unpack(entry))
  if type(answer) == 'table' then
    if answer.err:find('smaller', 1, true) then
      -- The log is from a sequence that was lost, so its offsets have no meaning.
      redis.call('DEL', log)
    end
    redis.call(unpack(entry))
  end
end

-- Returns the publish time of an entry of a log, and the size of its data.
local function measure(entry)
  local time, bytes = 0, 0
  local fields = entry[2]
  for at = 1, #fields, 2 do
    if fields[at] == 't' then
      time = tonumber(fields[at + 1]) or 0
    elseif fields[at] == 'd' then
      bytes = #fields[at + 1]
    end
  end
  return time, bytes
end

-- Removes the oldest entries that exceed the rule, at most as many as one call may trim; the newest
-- entry always stays. `size` is what the last call returned: the bytes of data in the log, and a
-- time that is not after the publish time of its oldest entry.
local function trim(log, rule, now, new_bytes, size)
  local length = redis.call('XLEN', log)
  local bytes, oldest = (size or ''):match('^(%d+) (%d+)$')
  bytes, oldest = (tonumber(bytes) or 0) + new_bytes, tonumber(oldest) or now
  local remaining, trimmed_bytes, from = length, 0, '-'
  local horizon = now - rule.age
  for _ = 1, TRIM_ENTRIES_MAX do
    local over = remaining > rule.events or bytes > rule.bytes
    if remaining == 1 or trimmed_bytes >= TRIM_BYTES_MAX or not (over or oldest < horizon) then
      break
    end
    local entry = redis.call('XRANGE', log, from, '+', 'COUNT', 1)[1]
    local entry_bytes
    oldest, entry_bytes = measure(entry)
    if not over and oldest >= horizon then
      break
    end
    remaining = remaining - 1
    bytes = math.max(bytes - entry_bytes, 0)
    trimmed_bytes = trimmed_bytes + entry_bytes
    from = '(' .. entry[1]
  end
  if remaining < length then
    redis.call('XTRIM', log, 'MAXLEN', '=', digits(remaining))
  end
  if remaining == 1 then
    bytes, oldest = new_bytes, now
  end
  return digits(bytes) .. ' ' .. digits(oldest)
end

-- Notes the sequence in the horizon, twice a day: `TIME OFFSET` of the previous note, then of the
-- newest. The last offset of a channel is forgotten a day after its history, so a client that
-- reconnects with an older position may have missed events of which no key is left. history.rs
-- reads the horizon.
local function note_horizon(prefix, horizon, now, last)
  local before, time = (horizon or ''):match('^%d+ %d+ ((%d+) %d+)$')
  if time and now < tonumber(time) + HORIZON_STEP_MS then
    return
  end
  local note = digits(now) .. ' ' .. digits(last)
  redis.call('SET', prefix .. ':horizon', (before or note) .. ' ' .. note)
end

-- Returns the offset up to which a channel without a last offset may have had events. history.rs
-- has the same rule.
local function forgotten_to(horizon, now, last)
  for time, offset in (horizon or ''):gmatch('(%d+) (%d+)') do
    if tonumber(time) >= now - LAST_EXTRA_MS then
      return offset
    end
  end
  return digits(last)
end

-- Appends the event to the log, then publishes it. Returns its position.
local function append_and_publish(prefix, event, rule, known, key)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local epoch, number = next_position(prefix, known.epoch, tonumber(known.seq), time)
  local horizon = epoch == known.epoch and known.horizon or nil
  local prev = (known.last or ''):match('^%d+')
  local prev_stored = prev
  if not prev or tonumber(prev) >= number then
    -- Subscribers know that no event came before; clients that reconnect later do not.
    prev, prev_stored = '0', forgotten_to(horizon, now, number - 1)
  end

  local log, offset, now_text = prefix .. ':log:' .. event.channel, digits(number), digits(now)
  append(log, offset, prev_stored, now_text, event)
  redis.call('SET', prefix .. ':seq', offset)
  note_horizon(prefix, horizon, now, number - 1)
  started = true
  redis.call('SET', prefix .. ':last:' .. event.channel,
    event['end'] and offset .. ' end' or offset, 'PX', rule.last_ttl_ms)
  local size = trim(log, rule, now, #event.data, known.size)
  redis.call('SET', prefix .. ':size:' .. event.channel, size, 'PX', rule.log_ttl_ms)
  redis.call('PEXPIRE', log, rule.log_ttl_ms)

  if key then
    -- Set before publishing: if Redis denies the PUBLISH, the event is in the log all the same, and
    -- a repeat must not append it again.
    redis.call('SET', key, epoch .. '-' .. offset, 'PX', digits(KEY_WINDOW_MS))
  end
  local headers = 'epoch: ' .. epoch .. '\noffset: ' .. offset .. '\nprev: ' .. prev
    .. '\ntime: ' .. now_text .. '\n'
  redis.call('PUBLISH', prefix .. ':' .. event.channel, envelope(event, headers))
  return epoch .. '-' .. offset
end

-- The function `headwater_publish`: returns the event's position, or nil if the retention of its
-- channel is off.
local function publish(keys, args)
  local event, err = read_arguments(keys, args)
  if err then
    return redis.error_reply('ERR headwater: ' .. err)
  end
  local prefix, channel = keys[1], event.channel
  -- The length distinguishes a channel `a:b` with the key `c` from a channel `a` with the key
  -- `b:c`.
  local key = event.key and prefix .. ':key:' .. #channel .. ':' .. channel .. ':' .. event.key
  local earlier = key and redis.call('GET', key)
  if earlier then
    return earlier ~= '' and earlier
  end
  local values = redis.call('MGET', prefix .. ':rules', prefix .. ':epoch', prefix .. ':seq',
    prefix .. ':last:' .. channel, prefix .. ':size:' .. channel, prefix .. ':horizon')
  local known = {
    epoch = values[2], seq = values[3], last = values[4], size = values[5], horizon = values[6],
  }
  if known.last and known.last:sub(-4) == ' end' then
    return redis.error_reply(
      'ENDED headwater: the channel has ended: publish to a channel with another name')
  end
  local rule
  rule, err = rule_of(channel, values[1] or '')
  if (tonumber(known.seq) or 0) + RESTART_JUMP >= NUMBER_MAX then
    err = 'the sequence is at its end: delete ' .. prefix .. ':seq to begin a new epoch'
  end
  if rule and rule.off and event['end'] then
    err = 'retention is off for this channel, so its end cannot be kept: leave out end, or change '
      .. 'the retention rules'
  end
  if err then
    return redis.error_reply('ERR headwater: ' .. err)
  end

  if not rule.off then
    return append_and_publish(prefix, event, rule, known, key)
  end
  publish_only(prefix, event)
  if key then
    redis.call('SET', key, '', 'PX', digits(KEY_WINDOW_MS))
  end
  return false
end

-- The function `headwater_begin`, for nodes only: creates the log if there is none, so that nodes
-- know its epoch before there is an event.
local function begin(keys)
  local prefix = keys[1]
  if redis.call('EXISTS', prefix .. ':epoch', prefix .. ':seq') == 0 then
    make_epoch(prefix, redis.call('TIME'))
    redis.call('SET', prefix .. ':seq', '0')
    started = true
  end
  return redis.status_reply('OK')
end

if not redis.register_function then
  return publish(KEYS, ARGV)
end
redis.register_function('headwater_publish', publish)
redis.register_function('headwater_begin', begin)
redis.register_function({
  function_name = 'headwater_version',
  callback = function()
    return VERSION
  end,
  flags = { 'no-writes' },
})
