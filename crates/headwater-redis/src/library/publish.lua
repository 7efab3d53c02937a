-- Publishes events: sequence, history, idempotency key, end and Pub/Sub in one atomic call. Look
-- here for what the functions do.

-- The maximum that one call trims, beyond the size of its own event: at most a millisecond of work.
local TRIM_ENTRIES_MAX = 64
local TRIM_BYTES_MAX = 262144

-- How often the sequence is noted in the horizon, which dates offsets for nodes.
local HORIZON_STEP_MS = LAST_EXTRA_MS / 2

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
local function publish_only(prefix, event, key)
  local is_plain = not (event.event or event.id or event.retry or event.plain)
  local to = is_plain and event.channel or prefix .. ':' .. event.channel
  -- Redis denies a function on a replica, but not a script that writes nothing.
  local err = is_script and is_replica(info('replication')) and REPLICA_ERROR
    or denied('PUBLISH', to, '') or (key and denied('SET', key, ''))
  if err then
    return redis.error_reply(err)
  end
  redis.call('PUBLISH', to, is_plain and event.data or envelope(event, ''))
  if key then
    redis.call('SET', key, '', 'PX', digits(KEY_WINDOW_MS))
  end
  return false
end

-- Appends the event to its channel's history. Returns false if that has newer entries.
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
  if type(answer) == 'table' and answer.err then
    if answer.err:find('smaller', 1, true) then
      return false
    end
    return redis.call(unpack(entry))
  end
  return true
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
-- entry always stays. `size` is what the last call returned: the bytes of data in the history, a
-- time that is not after the publish time of its oldest entry, and the bytes of its largest entry,
-- or more. read.lua plans with the latter.
local function trim(log, rule, now, new_bytes, size)
  local length = redis.call('XLEN', log)
  local bytes, oldest, largest = (size or ''):match('^(%d+) (%d+) ?(%d*)$')
  bytes, oldest = (tonumber(bytes) or 0) + new_bytes, tonumber(oldest) or now
  largest = math.max(tonumber(largest) or DATA_BYTES_MAX, new_bytes)
  local remaining, trimmed_bytes, from = length, 0, '-'
  local horizon = now - rule.age
  for _ = 1, TRIM_ENTRIES_MAX do
    local over = remaining > rule.events or bytes > rule.bytes
    local is_enough = trimmed_bytes >= new_bytes + TRIM_BYTES_MAX
    if remaining == 1 or is_enough or not (over or oldest < horizon) then
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
    bytes, oldest, largest = new_bytes, now, new_bytes
  end
  return digits(bytes) .. ' ' .. digits(oldest) .. ' ' .. digits(largest)
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

-- The keys of a channel.
local function keys_of(prefix, channel)
  return prefix .. ':log:' .. channel, prefix .. ':last:' .. channel, prefix .. ':size:' .. channel
end

-- Returns an error if the user may not execute all commands of a publish.
local function publish_denied(prefix, place, channel, key)
  local log, last, size = keys_of(prefix, channel)
  return log_denied(prefix, place) or denied('XADD', log, '1-0', 'd', '')
    or denied('SET', last, '') or denied('SET', size, '') or denied('SET', prefix .. ':horizon', '')
    or denied('XLEN', log) or denied('XRANGE', log, '-', '+')
    or denied('XTRIM', log, 'MAXLEN', '=', '1') or denied('PEXPIRE', log, '1')
    or (key and denied('SET', key, ''))
end

-- Redis 6.2 cannot check what a user may do, so commands that change nothing find out.
local function try_commands(log, last, size, key, rule)
  if redis.acl_check_cmd then
    return
  end
  redis.call('PEXPIRE', last, rule.last_ttl_ms)
  redis.call('PEXPIRE', size, rule.log_ttl_ms)
  redis.call('XTRIM', log, 'MAXLEN', '=', digits(NUMBER_MAX))
  redis.call('XLEN', log)
  redis.call('XRANGE', log, '-', '-')
  if key then
    redis.call('PEXPIRE', key, digits(KEY_WINDOW_MS))
  end
end

-- Appends the event to the log, then publishes it. Returns its position, or an error.
local function append_and_publish(prefix, event, rule, known, key)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local place = locate(prefix, known, time)
  local err = place.is_replica and REPLICA_ERROR
    or publish_denied(prefix, place, event.channel, key)
    or denied('PUBLISH', prefix .. ':' .. event.channel, '')
  if err then
    return redis.error_reply(err)
  end
  local before = place.last
  local number = before + 1
  local prev = (known.last_of_channel or ''):match('^%d+')
  local prev_stored = prev
  if not prev or tonumber(prev) >= number then
    -- Subscribers know that no event came before; clients that reconnect later do not.
    prev, prev_stored = '0', forgotten_to(not place.is_new and known.horizon, now, before)
  end

  local log, last, size = keys_of(prefix, event.channel)
  local now_text = digits(now)
  place.last = number
  write_log(prefix, place)
  try_commands(log, last, size, key, rule)
  if not append(log, digits(number), prev_stored, now_text, event) then
    -- The history is newer than the sequence, which thus is older data: the clock is
    -- above all offsets that were ever assigned.
    before = math.max(clock_us(time), number)
    number = before + 1
    begin_epoch(prefix, place, { epoch = place.epoch, last = number }, time)
    write_log(prefix, place)
    if not append(log, digits(number), digits(before), now_text, event) then
      -- Entries of another program. Nothing of this epoch is in there. DEL would take long.
      if type(redis.pcall('UNLINK', log)) == 'table' then
        redis.call('DEL', log)
      end
      append(log, digits(number), digits(before), now_text, event)
    end
  end
  local offset = digits(number)
  note_horizon(prefix, not place.is_new and known.horizon, now, before)
  redis.call('SET', last, event['end'] and offset .. ' end' or offset, 'PX', rule.last_ttl_ms)
  local new_size = trim(log, rule, now, #event.data, known.size)
  redis.call('SET', size, new_size, 'PX', rule.log_ttl_ms)
  redis.call('PEXPIRE', log, rule.log_ttl_ms)

  local position = place.epoch .. '-' .. offset
  if key then
    -- Set before publishing: if Redis denies the PUBLISH, the event is in the log all the same, and
    -- a repeat must not append it again.
    redis.call('SET', key, position, 'PX', digits(KEY_WINDOW_MS))
  end
  local headers = 'epoch: ' .. place.epoch .. '\noffset: ' .. offset .. '\nprev: ' .. prev
    .. '\ntime: ' .. now_text .. '\n'
  redis.call('PUBLISH', prefix .. ':' .. event.channel, envelope(event, headers))
  return position
end

-- Returns where the position of an event with an idempotency key is kept. A publisher has its own
-- keys. The length distinguishes a channel `a:b` with the key `c` from a channel `a` with the key
-- `b:c`, and the hash bounds the name of a publisher.
local function key_of(prefix, event)
  if not event.key then
    return nil
  end
  local kind = event.publisher and ':key-of:' .. redis.sha1hex(event.publisher) or ':key'
  return prefix .. kind .. ':' .. #event.channel .. ':' .. event.channel .. ':' .. event.key
end

-- The function `headwater_publish`: returns the event's position, or nil if the retention of its
-- channel is off.
local function publish(keys, args)
  local event, err = read_arguments(keys, args)
  if err then
    return redis.error_reply('ERR headwater: ' .. err)
  end
  local prefix, channel = keys[1], event.channel
  local key = key_of(prefix, event)
  local earlier = key and redis.call('GET', key)
  if earlier then
    return earlier ~= '' and earlier
  end
  local values = redis.call('MGET', prefix .. ':rules', prefix .. ':epoch', prefix .. ':seq',
    prefix .. ':writer', prefix .. ':last:' .. channel, prefix .. ':size:' .. channel,
    prefix .. ':horizon')
  local known = known_log(values[2], values[3], values[4])
  known.last_of_channel, known.size, known.horizon = values[5], values[6], values[7]
  if not known.last_of_channel and known.last then
    known.last_of_channel = last_in_history(prefix, channel, known.last)
  end
  if known.last_of_channel and known.last_of_channel:sub(-4) == ' end' then
    return redis.error_reply(
      'ENDED headwater: the channel has ended: publish to a channel with another name')
  end
  local rule
  rule, err = rule_of(channel, values[1] or '')
  if rule and rule.off and event['end'] then
    err = 'retention is off for this channel, so its end cannot be kept: leave out end, or change '
      .. 'the retention rules'
  end
  if err then
    return redis.error_reply('ERR headwater: ' .. err)
  end

  if rule.off then
    return publish_only(prefix, event, key)
  end
  return append_and_publish(prefix, event, rule, known, key)
end

-- Opens the log for a node, which passes what it has heard of, if anything: see `begin`. Returns
-- the log; or nil and an error.
local function open_log(keys, args, must_write)
  local prefix = keys[1]
  if #keys ~= 1 or prefix == '' then
    return nil, 'ERR headwater: give one key, such as headwater:{0}'
  end
  local values = redis.call('MGET', prefix .. ':epoch', prefix .. ':seq', prefix .. ':writer')
  local heard = args[1] and { epoch = args[1], last = valid_offset(args[2]) }
  if heard and not heard.last then
    return nil, 'ERR headwater: give the epoch and the offset that was heard of, or neither'
  end
  if heard then
    heard.ended, heard.accepted = {}, {}
  end
  for at = 3, #args do
    local epoch, offset, age = args[at]:match('^(%x+) (%d+) ?(%d*)$')
    if epoch then
      heard.accepted[#heard.accepted + 1] =
        { epoch = epoch, last = tonumber(offset), age_ms = tonumber(age) }
    else
      heard.ended[args[at]] = true
    end
  end
  local known = known_log(values[1], values[2], values[3])
  local log = locate(prefix, known, redis.call('TIME'), heard)
  if log.is_changed or must_write then
    -- Which Redis channels the user may publish to is another question.
    local err = log.is_replica and REPLICA_ERROR or publish_denied(prefix, log, 'headwater')
    if err then
      return nil, err
    end
    write_log(prefix, log)
  end
  return log
end

-- The function `headwater_begin`, for nodes only: creates the log if there is none, so that nodes
-- know its epoch before there is an event, and begins a new epoch if what the node has heard of is
-- not in it. ARGV: nothing, or that position's epoch and offset, and then in any order earlier
-- epochs, and `EPOCH OFFSET` for the last event of the node that was accepted in an epoch; with
-- ` AGE`, in milliseconds, if another server may have accepted it.
local function begin(keys, args)
  local log, err = open_log(keys, args, false)
  return log and redis.status_reply('OK') or redis.error_reply(err)
end

-- The function `headwater_probe`, for nodes only: as `headwater_begin`, and writes as an event does
-- that is published, so that it fails as that would. Returns {epoch, last offset}.
local function probe(keys, args)
  local log, err = open_log(keys, args, true)
  return log and { log.epoch, digits(log.last) } or redis.error_reply(err)
end

-- library/mod.rs makes the scripts of the other two functions from this line.
if is_script then
  return publish(KEYS, ARGV)
end
redis.register_function('headwater_publish', publish)
redis.register_function('headwater_begin', begin)
redis.register_function('headwater_probe', probe)
redis.register_function({
  function_name = 'headwater_version',
  callback = function()
    return VERSION
  end,
  flags = { 'no-writes' },
})
