-- Which log this is: its epoch, its sequence, and the server that wrote last. Look here for when a
-- log gets a new epoch, and when its sequence jumps. docs/redis.md explains it to operators.
--
-- What identifies the log is written together, and compared by every call that writes: `:epoch`,
-- `:seq` and `:writer`, which has the run ID of the server that wrote last and the ID of its
-- replication history. Clients may have positions that this server's data does not have:
--
-- * A replica that was promoted lacks what its primary had not sent: new epoch.
-- * A server that restarted may lack the last moments: the sequence jumps to the clock, in
--   microseconds since 1970, which is above every offset that was assigned before. It is noted in
--   `:jumps`, so that a node that has heard of an offset in between begins a new epoch.
-- `:begun` has the offset after which the epoch began, so that nodes deliver what it has, and the
-- time.
--
-- * One of the keys is missing or malformed, or the data is older than what was heard: new epoch.
-- * The primary that was replaced accepted events after this epoch began: new epoch, since clients
--   may have received the gap event of this one before. The node that published them reports it.

-- Version 1 added a fixed RESTART_JUMP of 2^32 instead: two restarts from one copy of the data then
-- assigned the same offsets. The clock repeats none.

-- How many jumps are noted, the newest ones.
local JUMPS_MAX = 16
-- How many logs a library remembers. A forgotten one jumps, which is harmless.
local LOGS_MAX = 64

-- State of the library: EVAL has none, and a restart of Redis clears it.
local is_script = not redis.register_function
-- What this library wrote of each log, by its prefix: epoch, last offset, writer.
local written, written_count = {}, 0

local function clock_us(time)
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Returns the answer of INFO, or nil if it is not permitted, or renamed.
local function info(section)
  if redis.acl_check_cmd then
    local exists, permitted = pcall(redis.acl_check_cmd, 'INFO', section)
    if not (exists and permitted) then
      return nil
    end
  end
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and text or nil
end

-- Returns the ID of this server's replication history, which is new after a restart and after a
-- promotion, and Redis' answer; or nil if the user may not ask.
local function this_history()
  local text = info('replication')
  local at = text and text:find('master_replid:', 1, true)
  if at then
    return text:sub(at + 14, at + 53), text
  end
end

-- Whether Redis' answer is that of a replica.
local function is_replica(text)
  return text and not text:find('role:master', 1, true)
end

local function this_run()
  return (info('server') or ''):match('run_id:(%x+)') or '-'
end

-- Whether this server was a replica since the writer wrote, by Redis' answer.
local function was_promoted(text, writer)
  if not (text:match('master_replid2:(%x+)') or ''):find('[^0]') then
    -- A restart, or a change that needs no promotion: the first replica connected, or the last one
    -- has been gone for `repl-backlog-ttl`.
    return false
  end
  if writer:match('^%x+') == this_run() then
    return true
  end
  -- From Redis 7 on, a primary that restarts also names the history it continues. Only a replica
  -- has received one.
  return not (info('stats') or ''):find('total_net_repl_input_bytes:0%s')
end

local function valid_epoch(text)
  return text and #text <= 12 and text:find('^[1-9a-f][0-9a-f]*$') and text or nil
end

local function valid_offset(text)
  local number = text and text:find('^%d+$') and #text <= 16 and tonumber(text)
  return number and number < NUMBER_MAX and number or nil
end

-- What is known of a log, from its keys `:epoch`, `:seq`, `:writer`.
local function known_log(epoch, seq, writer)
  return { epoch = valid_epoch(epoch), last = valid_offset(seq), writer = writer or '' }
end

-- Whether this epoch of the log lacks an offset that was in it. `newest` is the last that the node
-- knows of: with it, the node has compared itself since the jumps before it.
local function lacks_offset(prefix, known, last, newest)
  if last > known.last then
    return true
  end
  local jumps, oldest = 0, nil
  for from, to in (redis.call('GET', prefix .. ':jumps') or ''):gmatch('(%d+) (%d+)') do
    jumps, oldest = jumps + 1, oldest or tonumber(from)
    if tonumber(from) < last and last < tonumber(to) then
      return true
    end
  end
  return jumps >= JUMPS_MAX and newest < oldest
end

-- Whether this epoch began longer ago than an event was accepted in another one.
local function began_before(prefix, age_ms, time)
  local begun = redis.call('GET', prefix .. ':begun') or ''
  local begun_us = tonumber(begun:match('^%d+ (%d+)$'))
  return begun_us and begun_us < clock_us(time) - age_ms * 1000
end

-- Whether the log lacks what a node has heard of: an offset, a later epoch, or its own events.
local function lacks(prefix, known, heard, time)
  if not heard then
    return false
  end
  local lasts, newest = {}, 0
  if heard.epoch == known.epoch then
    lasts[1] = heard.last
  elseif heard.ended[known.epoch] then
    return true
  end
  for _, event in ipairs(heard.accepted) do
    if event.epoch ~= known.epoch then
      if event.age_ms and began_before(prefix, event.age_ms, time) then
        return true
      end
    elseif event.last > 0 then -- 0: only ephemeral events were accepted
      lasts[#lasts + 1] = event.last
    end
  end
  for _, last in ipairs(lasts) do
    newest = math.max(newest, last)
  end
  for _, last in ipairs(lasts) do
    if lacks_offset(prefix, known, last, newest) then
      return true
    end
  end
  return false
end

-- Returns how the log continues on this server: 'epoch' for a new epoch, 'jump', 'clock' if that
-- cannot be known, so that each offset is taken from the clock; or nil if it simply continues.
local function continuation(prefix, known, history, text, heard, time)
  local state = written[prefix]
  local is_known = state and state.epoch == known.epoch
  if not (known.epoch and known.last) or lacks(prefix, known, heard, time) then
    return 'epoch'
  end
  if is_known and known.last < state.last then
    -- Older keys were restored under a running server.
    return 'epoch'
  end
  local writer = known.writer == '' and is_known and state.writer or known.writer
  if history and writer:sub(-40) ~= history then
    return was_promoted(text, writer) and 'epoch' or 'jump'
  end
  if not is_script and not is_known then
    -- The library was loaded again, perhaps together with older data.
    return 'jump'
  end
  return not history and 'clock' or nil
end

local function make_epoch(time, old)
  local entropy = table.concat({ time[1], time[2], tostring({}), old or '' }, ' ')
  return (redis.sha1hex(entropy):sub(1, 12):gsub('^0', '1'))
end

-- A new epoch continues after the last offset, so that what is left of the history keeps its
-- place. If the sequence is lost, the clock is above any offset in it.
local function begin_epoch(prefix, log, known, time)
  local is_fresh = not known.last
  local values = is_fresh and redis.call('MGET', prefix .. ':epoch', prefix .. ':seq',
    prefix .. ':writer', prefix .. ':horizon', prefix .. ':jumps') or {}
  for _, value in ipairs(values) do
    is_fresh = is_fresh and not value
  end
  log.last = known.last or (is_fresh and 0 or clock_us(time))
  log.begun = digits(log.last) .. ' ' .. digits(clock_us(time))
  log.epoch, log.is_new, log.jumped_from = make_epoch(time, known.epoch), true, nil
end

-- Returns the log as it continues on this server: epoch, last offset, and what must be written.
local function locate(prefix, known, time, heard)
  local history, text = this_history()
  local log = { epoch = known.epoch, last = known.last, writer = known.writer }
  local change = continuation(prefix, known, history, text, heard, time)
  if change == 'epoch' or (change == 'jump' and clock_us(time) <= known.last) then
    begin_epoch(prefix, log, known, time)
  elseif change == 'jump' then
    log.last, log.jumped_from, log.jumped_to = clock_us(time), known.last, clock_us(time)
  elseif change == 'clock' then
    log.last = math.max(clock_us(time), known.last)
  end
  if history and known.writer:sub(-40) ~= history then
    log.writer, log.has_new_writer = this_run() .. ' ' .. history, true
  end
  log.is_changed = log.is_new or log.jumped_from or log.has_new_writer
  log.is_replica = is_replica(text)
  return log
end

local function note_jump(prefix, from, to)
  local numbers = {}
  for number in (redis.call('GET', prefix .. ':jumps') or ''):gmatch('%d+') do
    numbers[#numbers + 1] = number
  end
  numbers[#numbers + 1], numbers[#numbers + 2] = digits(from), digits(to)
  local first = math.max(#numbers - 2 * JUMPS_MAX, 0) + 1
  redis.call('SET', prefix .. ':jumps', table.concat(numbers, ' ', first))
end

-- Writes the last offset, and what else of the log has changed. The sequence comes first: Redis
-- rejects a write because of its state only before a call has written something.
local function write_log(prefix, log)
  redis.call('SET', prefix .. ':seq', digits(log.last))
  if log.is_new then
    redis.call('SET', prefix .. ':epoch', log.epoch)
    redis.call('SET', prefix .. ':begun', log.begun)
    redis.call('DEL', prefix .. ':horizon', prefix .. ':jumps')
  end
  if log.jumped_from then
    note_jump(prefix, log.jumped_from, log.jumped_to)
  end
  if log.has_new_writer then
    redis.call('SET', prefix .. ':writer', log.writer)
  end
  if not written[prefix] then
    written_count = written_count + 1
    if written_count > LOGS_MAX then
      written, written_count = {}, 1
    end
  end
  written[prefix] = log
end

-- Returns an error if the user may not execute a command on a key, so that a rejected call changes
-- nothing. Redis 6.2 has no such check.
local function denied(command, key, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(command, key, ...) then
    return 'NOPERM the Redis user may not call ' .. command .. ' on ' .. key
      .. ': give it the permissions that docs/redis-function.md lists'
  end
end

-- The same for what `write_log` executes.
local function log_denied(prefix, log)
  if not log.is_changed then
    return denied('SET', prefix .. ':seq', '')
  end
  for _, key in ipairs({ ':seq', ':epoch', ':begun', ':writer', ':jumps' }) do
    local err = denied('SET', prefix .. key, '')
    if err then
      return err
    end
  end
  return denied('DEL', prefix .. ':horizon', prefix .. ':jumps')
end

local REPLICA_ERROR = 'READONLY this Redis is a replica: publish to the primary'
