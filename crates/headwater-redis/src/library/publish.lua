#!lua name=headwater
-- Publishes events that are kept: sequence, history, idempotency key, end and Pub/Sub in one atomic
-- call. Look here for what the Redis function does; docs/redis-function.md is its contract.
--
-- One source for two ways: Redis 7 and Valkey load it as a function library, and Redis 6.2 runs it with
-- EVAL, without the first line. function.rs does both.

local VERSION = 1

-- Bounds. Those of arguments are the bounds of limits.rs, and a test holds them together.
local CHANNEL_BYTES_MAX = 255
local NAME_BYTES_MAX = 255
local ID_BYTES_MAX = 255
local KEY_BYTES_MAX = 255
local DATA_BYTES_MAX = 8388608
local RETRY_MS_MAX = 4294967295
-- What a double counts exactly.
local NUMBER_MAX = 9007199254740991
-- Far more than a configuration has, and copied on every call.
local RULES_BYTES_MAX = 65536
-- What one call trims: more than it adds, and no more than a few milliseconds' work.
local TRIM_ENTRIES_MAX = 64
local TRIM_BYTES_MAX = DATA_BYTES_MAX
-- How long an idempotency key is known: longer than any sensible series of attempts.
local KEY_WINDOW_MS = 600000
-- How much longer than its history a channel's last offset and its end are known.
local LAST_EXTRA_MS = 86400000
-- How often it is noted where the sequence is, so that nodes can tell positions from before that time.
local HORIZON_STEP_MS = LAST_EXTRA_MS / 2
-- More offsets than a Redis that restarts from an old snapshot can have lost.
local RESTART_JUMP = 4294967296
-- What is kept where no rule matches.
local DEFAULT_RULES = '* 1000 600000 8388608'

-- State of the library. It is gone after a restart of Redis, and EVAL has none of it.
local rules_text = nil
local rules = nil
-- Whether an event was kept since Redis started. For EVAL, which cannot know, the node cares for the jump.
local started = not redis.register_function

-- A whole number as text; `..` writes large ones with an exponent.
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

-- Whether text is UTF-8. What is left over after all sequences were replaced is not.
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

-- The checks return what is wrong, or nil. Their counterparts in Rust are the types in channel.rs and event/mod.rs.

local function length_fault(what, text, bytes_max, advice)
  if #text == 0 then
    return what .. ' is empty: ' .. advice
  end
  if #text > bytes_max then
    return what .. ' has ' .. #text .. ' bytes: at most ' .. bytes_max .. ' are allowed'
  end
end

local function text_fault(what, text, bytes_max, advice)
  local fault = length_fault(what, text, bytes_max, advice)
  if fault then
    return fault
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
    return string.format('%s has the control character U+%04X at byte %d: leave it out', what, code, (at or c1) - 1)
  end
end

local function channel_fault(channel)
  local fault = text_fault("a channel's name", channel, CHANNEL_BYTES_MAX, 'give it at least one character')
  if not fault and channel:sub(1, 10) == 'headwater:' then
    return 'channel names that begin with "headwater:" are reserved: choose another name'
  end
  return fault
end

-- Ids and keys travel as headers of requests.
local function header_fault(what, text, bytes_max)
  local fault = length_fault(what, text, bytes_max, 'leave it out instead')
  local at = text:find('[^\33-\126]')
  if not fault and at then
    return string.format('%s has 0x%02X at byte %d, and travels in request headers: use only visible ASCII '
      .. 'without spaces', what, text:byte(at), at - 1)
  end
  return fault
end

local function retry_fault(retry)
  if not retry:find('^%d+$') or #retry > 10 or tonumber(retry) > RETRY_MS_MAX then
    return "an event's retry must be whole milliseconds from 0 to " .. digits(RETRY_MS_MAX) .. ': write only digits'
  end
end

local function end_fault(value)
  if value ~= '1' then
    return 'end must be 1: leave it out for an event that is not the last'
  end
end

local OPTION_FAULTS = {
  event = function(name)
    return text_fault("an event's name", name, NAME_BYTES_MAX, 'leave it out instead')
  end,
  id = function(id)
    return header_fault("an event's id", id, ID_BYTES_MAX)
  end,
  retry = retry_fault,
  key = function(key)
    return header_fault('an idempotency key', key, KEY_BYTES_MAX)
  end,
  ['end'] = end_fault,
}

-- The event that the arguments say; or nil, and what is wrong with them.
local function read_arguments(keys, args)
  if #keys ~= 1 or keys[1] == '' or #args < 2 then
    return nil, 'give one key, a channel and data: FCALL headwater_publish 1 headwater:{0} CHANNEL DATA '
      .. '[event NAME] [id ID] [retry MS] [key KEY] [end 1]'
  end
  local event = { channel = args[1], data = args[2] }
  local fault = channel_fault(event.channel)
  if fault then
    return nil, fault
  end
  if #event.data > DATA_BYTES_MAX then
    return nil, "an event's data has " .. #event.data .. ' bytes: at most ' .. DATA_BYTES_MAX .. ' are allowed'
  end
  for at = 3, #args, 2 do
    local option, value = args[at]:lower(), args[at + 1]
    local shown = args[at]:sub(1, 40):gsub('[^\32-\126]', '?')
    if not OPTION_FAULTS[option] then
      return nil, 'there is no option "' .. shown .. '": use event, id, retry, key and end, each with a value'
    end
    if not value then
      return nil, 'the option "' .. shown .. '" has no value: give it one, or leave the option out'
    end
    if event[option] then
      return nil, 'the option "' .. shown .. '" is given twice: give it once'
    end
    fault = OPTION_FAULTS[option](value)
    if fault then
      return nil, fault
    end
    event[option] = value
  end
  event.retry = event.retry and digits(tonumber(event.retry))
  return event
end

-- The rules in their text form: lines `PATTERN EVENTS AGE_MS BYTES` or `PATTERN off`. A pattern may have spaces, so a
-- line is read from its end. Returns nil and what is wrong if one is broken.
local function parse_rules(text)
  if #text > RULES_BYTES_MAX then
    return nil, 'the retention rules have ' .. #text .. ' bytes: at most ' .. RULES_BYTES_MAX .. ' are allowed'
  end
  local parsed, line_number = {}, 0
  for line in text:gmatch('([^\n]*)\n?') do
    line_number = line_number + 1
    local pattern, events, age, bytes = line:match('^(.+) (%d+) (%d+) (%d+)$')
    local rule = pattern and { events = count(events), age = count(age), bytes = count(bytes) }
    if rule and rule.age then
      rule.log_lives_ms = digits(rule.age)
      rule.last_lives_ms = digits(rule.age + LAST_EXTRA_MS)
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
      return nil, 'line ' .. line_number .. ' of the retention rules is broken: write PATTERN EVENTS AGE_MS BYTES, '
        .. 'each number at least 1, or PATTERN off'
    end
  end
  return parsed
end

-- The first rule that matches a channel; or nil, and what is wrong with the rules.
local function rule_of(channel, text)
  if text ~= rules_text then
    local parsed, fault = parse_rules(text .. '\n' .. DEFAULT_RULES)
    if fault then
      return nil, fault
    end
    rules, rules_text = parsed, text
  end
  for _, rule in ipairs(rules) do
    if channel == rule.name or (rule.open and channel:sub(1, #rule.name) == rule.name) then
      return rule
    end
  end
end

-- What travels over Pub/Sub; see envelope.rs.
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

-- Retention is off: Pub/Sub and nothing else.
local function publish_only(prefix, event)
  if event.event or event.id or event.retry then
    redis.call('PUBLISH', prefix .. ':' .. event.channel, envelope(event, ''))
  else
    redis.call('PUBLISH', event.channel, event.data)
  end
end

-- A random word for a sequence that begins.
local function make_epoch(prefix, time, old)
  local entropy = table.concat({ time[1], time[2], tostring({}), old or '' }, ' ')
  local epoch = redis.sha1hex(entropy):sub(1, 12):gsub('^0', '1')
  redis.call('DEL', prefix .. ':horizon')
  redis.call('SET', prefix .. ':epoch', epoch)
  return epoch
end

-- The epoch, made when it or the sequence is missing, and the next offset.
local function next_position(prefix, epoch, seq, time)
  if epoch and seq then
    if started then
      return epoch, seq + 1
    end
    -- The first event since Redis started, perhaps from a snapshot older than what listeners have seen: no offset
    -- is given twice.
    return epoch, seq + RESTART_JUMP + 1
  end
  local made = make_epoch(prefix, time, epoch)
  -- A sequence that was lost alone may have left logs behind. Microseconds are above any offset in them.
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
      -- The log is of a sequence that was lost: its offsets mean nothing any more.
      redis.call('DEL', log)
    end
    redis.call(unpack(entry))
  end
end

-- The publish time of an entry of a log, and the size of its data.
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

-- Removes the oldest entries that the rule does not allow, as many as one call may; the newest stays. `size` is what
-- the last call returned: the bytes of data in the log, and a time that is not after its oldest entry's.
local function trim(log, rule, now, new_bytes, size)
  local length = redis.call('XLEN', log)
  local bytes, oldest = (size or ''):match('^(%d+) (%d+)$')
  bytes, oldest = (tonumber(bytes) or 0) + new_bytes, tonumber(oldest) or now
  local kept, trimmed_bytes, from = length, 0, '-'
  local horizon = now - rule.age
  for _ = 1, TRIM_ENTRIES_MAX do
    local over = kept > rule.events or bytes > rule.bytes
    if kept == 1 or trimmed_bytes >= TRIM_BYTES_MAX or not (over or oldest < horizon) then
      break
    end
    local entry = redis.call('XRANGE', log, from, '+', 'COUNT', 1)[1]
    local entry_bytes
    oldest, entry_bytes = measure(entry)
    if not over and oldest >= horizon then
      break
    end
    kept = kept - 1
    bytes = math.max(bytes - entry_bytes, 0)
    trimmed_bytes = trimmed_bytes + entry_bytes
    from = '(' .. entry[1]
  end
  if kept < length then
    redis.call('XTRIM', log, 'MAXLEN', '=', digits(kept))
  end
  if kept == 1 then
    bytes, oldest = new_bytes, now
  end
  return digits(bytes) .. ' ' .. digits(oldest)
end

-- Notes, twice a day, where the sequence is: `TIME OFFSET` of the note before, then of the newest. The last offset of a
-- channel is forgotten a day after its history, so whoever comes back from before that may have missed what no key
-- tells of any more; log.rs reads it.
local function note_horizon(prefix, horizon, now, last)
  local before, time = (horizon or ''):match('^%d+ %d+ ((%d+) %d+)$')
  if time and now < tonumber(time) + HORIZON_STEP_MS then
    return
  end
  local note = digits(now) .. ' ' .. digits(last)
  redis.call('SET', prefix .. ':horizon', (before or note) .. ' ' .. note)
end

-- Up to where a channel of which nothing is known may have had events; log.rs has the same.
local function forgotten_to(horizon, now, last)
  for time, offset in (horizon or ''):gmatch('(%d+) (%d+)') do
    if tonumber(time) >= now - LAST_EXTRA_MS then
      return offset
    end
  end
  return digits(last)
end

-- Keeps the event, then publishes it. Returns its position.
local function publish_and_keep(prefix, event, rule, known, key)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local epoch, number = next_position(prefix, known.epoch, tonumber(known.seq), time)
  local horizon = epoch == known.epoch and known.horizon or nil
  local prev = (known.last or ''):match('^%d+')
  local prev_kept = prev
  if not prev or tonumber(prev) >= number then
    -- Who listens knows that nothing came before; who comes back later does not.
    prev, prev_kept = '0', forgotten_to(horizon, now, number - 1)
  end

  local log, offset, now_text = prefix .. ':log:' .. event.channel, digits(number), digits(now)
  append(log, offset, prev_kept, now_text, event)
  redis.call('SET', prefix .. ':seq', offset)
  note_horizon(prefix, horizon, now, number - 1)
  started = true
  redis.call('SET', prefix .. ':last:' .. event.channel, event['end'] and offset .. ' end' or offset,
    'PX', rule.last_lives_ms)
  local size = trim(log, rule, now, #event.data, known.size)
  redis.call('SET', prefix .. ':size:' .. event.channel, size, 'PX', rule.log_lives_ms)
  redis.call('PEXPIRE', log, rule.log_lives_ms)

  if key then
    -- Before the event is published: should the user not be allowed to, the event is kept all the same, and a repeat
    -- must not keep it again.
    redis.call('SET', key, epoch .. '-' .. offset, 'PX', digits(KEY_WINDOW_MS))
  end
  local headers = 'epoch: ' .. epoch .. '\noffset: ' .. offset .. '\nprev: ' .. prev .. '\ntime: ' .. now_text .. '\n'
  redis.call('PUBLISH', prefix .. ':' .. event.channel, envelope(event, headers))
  return epoch .. '-' .. offset
end

-- Answers the event's position; nil if its channel keeps none.
local function publish(keys, args)
  local event, fault = read_arguments(keys, args)
  if fault then
    return redis.error_reply('ERR headwater: ' .. fault)
  end
  local prefix, channel = keys[1], event.channel
  -- The length keeps a channel `a:b` with the key `c` apart from a channel `a` with the key `b:c`.
  local key = event.key and prefix .. ':key:' .. #channel .. ':' .. channel .. ':' .. event.key
  local answered = key and redis.call('GET', key)
  if answered then
    return answered ~= '' and answered
  end
  local values = redis.call('MGET', prefix .. ':rules', prefix .. ':epoch', prefix .. ':seq',
    prefix .. ':last:' .. channel, prefix .. ':size:' .. channel, prefix .. ':horizon')
  local known = { epoch = values[2], seq = values[3], last = values[4], size = values[5], horizon = values[6] }
  if known.last and known.last:sub(-4) == ' end' then
    return redis.error_reply('ENDED headwater: the channel has ended: publish to a channel with another name')
  end
  local rule
  rule, fault = rule_of(channel, values[1] or '')
  if (tonumber(known.seq) or 0) + RESTART_JUMP >= NUMBER_MAX then
    fault = 'the sequence is at its end: delete ' .. prefix .. ':seq to begin a new epoch'
  end
  if rule and rule.off and event['end'] then
    fault = 'retention is off for this channel, so its end cannot be kept: leave out end, or change the retention rules'
  end
  if fault then
    return redis.error_reply('ERR headwater: ' .. fault)
  end

  if not rule.off then
    return publish_and_keep(prefix, event, rule, known, key)
  end
  publish_only(prefix, event)
  if key then
    redis.call('SET', key, '', 'PX', digits(KEY_WINDOW_MS))
  end
  return false
end

-- Begins the log of a Redis that has none, so that nodes know its epoch before there is an event. For nodes only.
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
