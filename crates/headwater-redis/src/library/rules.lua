-- The retention rules: which one applies to a channel. Look here for their text form, in which
-- nodes write them to Redis.

-- Far more than a configuration needs; the rules are copied on every call.
local RULES_BYTES_MAX = 65536

local rules_text = nil
local rules = nil

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
