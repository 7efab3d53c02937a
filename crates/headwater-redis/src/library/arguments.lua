#!lua name=headwater
-- The arguments of a call, and their bounds. Look here for what the function accepts;
-- docs/redis-function.md is its contract.
--
-- The library is these files in this order: arguments, rules, log, last, publish. One
-- source for two ways: Redis 7 and Valkey load it as a function library, and Redis 6.2 runs it with
-- EVAL, without the first line. library/mod.rs does both.

-- Generated from limits.rs: do not edit. To update it, run
-- UPDATE_LUA=1 cargo test -p headwater-redis --lib numbers
local VERSION = 3
local CHANNEL_BYTES_MAX = 255
local NAME_BYTES_MAX = 255
local ID_BYTES_MAX = 255
local KEY_BYTES_MAX = 255
local DATA_BYTES_MAX = 8388608
local RETRY_MS_MIN = 100
local RETRY_MS_MAX = 300000
local KEY_WINDOW_MS = 600000
local LAST_EXTRA_MS = 86400000
local NUMBER_MAX = 9007199254740991
local DEFAULT_RULES = '* 1000 600000 8388608'
-- End of the generated lines.

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

-- Browsers use these names for the connection itself.
local function name_error(name)
  local err = text_error("an event's name", name, NAME_BYTES_MAX, 'leave it out instead')
  if not err and (name == 'error' or name == 'open') then
    return 'an event\'s name is "' .. name .. '", which browsers use for the connection itself: '
      .. 'choose another name'
  end
  return err
end

-- Whether text is a part of a position as the log writes it: an epoch and an offset.
local function is_position_part(text)
  local epoch, number = text:match('^([1-9a-f][0-9a-f]*)%-(%d+)$')
  return epoch and #epoch <= 12 and (number == '0' or count(number) and number:sub(1, 1) ~= '0')
end

-- Clients resume at positions, so only the log assigns them.
local function id_error(id)
  local what = "an event's id"
  local log, node = id:match('^([^~]*)~(.*)$')
  if is_position_part(log or id) and (not log or is_position_part(node)) then
    return what .. ' is written as a position of the log, EPOCH-OFFSET, which only the log '
      .. 'assigns: choose another id, for example with a prefix'
  end
  return header_error(what, id, ID_BYTES_MAX)
end

local function retry_error(retry)
  local ms = retry:find('^%d+$') and #retry <= 10 and tonumber(retry)
  if not ms or ms < RETRY_MS_MIN or ms > RETRY_MS_MAX then
    return "an event's retry must be whole milliseconds from " .. digits(RETRY_MS_MIN) .. ' to '
      .. digits(RETRY_MS_MAX) .. ': write only digits'
  end
end

local function end_error(value)
  if value ~= '1' then
    return 'end must be 1: leave it out for an event that is not the last'
  end
end

local function plain_error(value)
  if value ~= '0' then
    return 'plain must be 0: leave it out to allow a plain PUBLISH'
  end
end

local OPTION_ERRORS = {
  event = name_error,
  id = id_error,
  retry = retry_error,
  key = function(key)
    return header_error('an idempotency key', key, KEY_BYTES_MAX)
  end,
  ['end'] = end_error,
  plain = plain_error,
  -- Any name: only its hash is kept.
  publisher = function() end,
}

-- Returns the event in the arguments; or nil and an error message.
local function read_arguments(keys, args)
  if #keys ~= 1 or keys[1] == '' or #args < 2 then
    return nil, 'give one key, a channel and data: FCALL headwater_publish 1 headwater:{0} CHANNEL '
      .. 'DATA [event NAME] [id ID] [retry MS] [key KEY] [publisher NAME] [end 1] [plain 0]'
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
        .. '": use event, id, retry, key, publisher, end and plain, each with a value'
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
