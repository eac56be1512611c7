-- Judges coordinators by their heartbeat and activity and removes the keys of the stale ones.
--
-- Key families (<id> is any bytes, compared whole, never a pattern):
--   blocking:heartbeat:<id>          string  sign of life
--   coordinator:activity:<id>        string  time of the last work
--   blocking:signal:<id>             string  a message that waits for it
--   blocking:ack:<id>:<signal>       string  its answer to a signal
--   blocking:idempotency:<message>   string  a handled message, names its parties
--   blocking:cleanup:orphans         hash    id -> ms when first seen without heartbeat
--
-- One script, two ways in.
--
-- 1. With KEYS, as the tasks call it: judge the given coordinators and reap the stale ones.
--    KEYS  the heartbeats, then the activities, of ids that may own a key here and had no heartbeat so
--          far: if one has by now, or a fresh activity, nothing is done;
--          then the coordinators' heartbeats, then their activities, then each one's own related keys;
--          then the shared records;
--          last, for orphans only, the hash of their first sightings (id -> ms).
--    ARGV  1 threshold, whole seconds        2 dry run, 0 or 1
--          3 keep heartbeat and activity, 0 or 1 (1: further parts of a large coordinator follow)
--          4 coordinators                    5 ids without heartbeat that may own a key
--          6 orphans, 0 or 1 (1: the coordinators must have no heartbeat, and be noted long enough)
--          7 per coordinator the number of its own keys, as "4,4,5"
--          8 per shared record the numbers of its owners, as "1,2;2,3,4"
--          9 optional: a time of this server in ms, and
--          10 the values of all heartbeats and then activities (empty: none) by which the coordinators
--             were found stale then, a line each; each names one time and nothing else that might count
--             later. Who still has these is stale; no need to read them.
--    Returns {verdicts, deleted, newcomers}: a verdict per coordinator and then per shared record, REAPED
--          or why it was kept (none at all: everything was reaped); the number of keys deleted (in a dry
--          run: that would go); and the numbers of the ids that have a heartbeat, or a fresh activity,
--          after all: then nothing was done.
--
-- 2. Without KEYS, by hand: redis-cli --eval cleanup_blocking_coordination.lua , 600 1
--    ARGV  1 threshold, whole seconds        2 dry run, 0 or 1
--    Returns the metrics as JSON text. It holds the server while it runs, so it refuses large databases.
--
-- No shebang line: Redis 6.2 knows none, and with one it is refused just when memory is short.

local REAPED, ACTIVE, UNREADABLE, GONE, UNRIPE = 0, -1, -2, -3, -4

local FIELDS = {'timestamp', 'lastHeartbeat', 'lastActivity'}
local IS_FIELD = {timestamp = true, lastHeartbeat = true, lastActivity = true}
local LITERALS = {['true'] = true, ['false'] = true, ['null'] = true}
local EARLIEST_MS = 1000000000000
local FUTURE_MS = 86400000
local MAX_DEPTH = 100
local MAX_BYTES = 65536
local MAX_SEGMENTS = 32
-- unpack fails at 8,000 values.
local MAX_ARGUMENTS = 5000
-- About a second of the server's time.
local MAX_KEYS_BY_HAND = 250000

local function whole_number(value, digits)
  return value and #value <= digits and value:find('^%d+$') and tonumber(value)
end

local threshold = whole_number(ARGV[1], 9)
local by_hand = #KEYS == 0
if not threshold or not (ARGV[2] == '0' or ARGV[2] == '1') or #ARGV < (by_hand and 2 or 8) then
  return redis.error_reply('ERR usage: redis-cli --eval cleanup_blocking_coordination.lua , SECONDS DRYRUN'
    .. ' (mind the comma; SECONDS a whole number of at most 9 digits, DRYRUN 0 or 1); nothing was touched')
end
local dry_run = ARGV[2] == '1'
local clock = redis.call('TIME')
local now_s = tonumber(clock[1])
local now_ms = now_s * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- The staleness rule, twin of cleanup_tasks/staleness.py ------------------------------------------

local function too_deep(skeleton)
  local depth = 0
  for bracket in skeleton:gmatch('[%[%]{}]') do
    if bracket == '[' or bracket == '{' then
      depth = depth + 1
      if depth > MAX_DEPTH then return true end
    else
      depth = depth - 1
    end
  end
  return false
end

-- A number as JSON writes it; cjson also takes hexadecimal, nan, inf, leading zeros, "1." and "-.5".
local function json_number(token)
  local mantissa = token:gsub('[eE][+-]?%d+$', '')
  return (mantissa:find('^%-?%d+$') or mantissa:find('^%-?%d+%.%d+$')) and not mantissa:find('^%-?0%d')
end

-- Whether what a document holds besides strings is plain JSON, and not too deep.
local function plain(document)
  local skeleton = document
  if skeleton:find('\\', 1, true) then skeleton = skeleton:gsub('\\.', '') end
  skeleton = skeleton:gsub('"[^"]*"', '')
  for token in skeleton:gmatch('[^%s{}%[%]:,]+') do
    if not (token:find('^[1-9]%d*$') or LITERALS[token] or json_number(token)) then return false end
  end
  return #skeleton <= MAX_DEPTH or not too_deep(skeleton)
end

local function plausible(number)
  if type(number) ~= 'number' or not (number >= EARLIEST_MS and number <= now_ms + FUTURE_MS) then return nil end
  return math.min(number, now_ms)
end

-- The time in ms that a value yields, or nil.
local function time_of(value)
  -- What most writers write is read without a parser: a third of the time, and the same answer.
  local field, digits = (value or ''):match('^{"coordinatorId": ?"[^"\\%z]*", ?"(%a+)": ?([1-9]%d*)}$')
  if IS_FIELD[field] and #value <= 1000 and #digits <= 15 then return plausible(tonumber(digits)) end
  if not value or #value > MAX_BYTES or value:find('\0', 1, true) or not plain(value) then return nil end
  local readable, document = pcall(cjson.decode, value)
  if not readable then return nil end
  if type(document) ~= 'table' then return plausible(document) end
  local newest
  for _, field in ipairs(FIELDS) do
    local time = plausible(document[field])
    if time and (not newest or time > newest) then newest = time end
  end
  return newest
end

local function is_older(time)
  return now_s - math.floor(time / 1000) > threshold
end

-- REAPED for a stale coordinator, else why it is kept.
local function judge(heartbeat_key, heartbeat, activity)
  local beat = time_of(heartbeat)
  if not beat then
    if not heartbeat and redis.call('EXISTS', heartbeat_key) == 0 then return GONE end
    return UNREADABLE
  end
  if not is_older(beat) then return ACTIVE end
  local worked = time_of(activity)
  if worked and not is_older(worked) then return ACTIVE end
  return REAPED
end

-- The same for a coordinator that must have no heartbeat.
local function judge_orphan(heartbeat_key, activity, first_seen)
  if redis.call('EXISTS', heartbeat_key) == 1 then return ACTIVE end
  local worked = time_of(activity)
  local seen = whole_number(first_seen, 15)
  local ripe = seen and is_older(seen) and not (worked and not is_older(worked))
  return ripe and REAPED or UNRIPE
end

-- What a command that takes and counts keys says of a part of a list.
local function count(command, list, first, last)
  local total = 0
  for from = first, last, MAX_ARGUMENTS do
    total = total + redis.call(command, unpack(list, from, math.min(last, from + MAX_ARGUMENTS - 1)))
  end
  return total
end

-- Deletes keys, or counts them in a dry run; returns how many there were.
local function reap(list, first, last)
  return count(dry_run and 'EXISTS' or 'UNLINK', list, first, last)
end

-- MGET of a part of a list; false for a key that is missing or no string.
local function values_of(list, first, last)
  local values = {}
  for from = first, last, MAX_ARGUMENTS do
    local some = redis.call('MGET', unpack(list, from, math.min(last, from + MAX_ARGUMENTS - 1)))
    if from == first then
      values = some
    else
      for offset = 1, #some do values[from - first + offset] = some[offset] end
    end
  end
  return values
end

local function after(key, prefix)
  return key:sub(1, #prefix) == prefix and key:sub(#prefix + 1) or nil
end

-- With KEYS: judge and reap what the caller found ---------------------------------------------------

-- The numbers of those unseen ids, the first KEYS, that gave a sign of life since.
local function find_newcomers(unseen)
  local newcomers = {}
  if count('EXISTS', KEYS, 1, 2 * unseen) == 0 then return newcomers end
  local activities = values_of(KEYS, unseen + 1, 2 * unseen)
  for number = 1, unseen do
    local worked = time_of(activities[number])
    if (worked and not is_older(worked)) or redis.call('EXISTS', KEYS[number]) == 1 then
      newcomers[#newcomers + 1] = number
    end
  end
  return newcomers
end

-- Whether values are those by which the coordinators were found stale. None of those has a line break; so
-- if the lines are the same, each value is.
local function unchanged(values)
  if not ARGV[10] or tonumber(ARGV[9]) > now_ms then return false end
  local lines = {}
  for number = 1, #values do lines[number] = values[number] or '' end
  return table.concat(lines, '\n') == ARGV[10]
end

local function reap_given()
  local keep_heartbeats, orphaned = ARGV[3] == '1', ARGV[6] == '1'
  local coordinators, unseen = tonumber(ARGV[4]), tonumber(ARGV[5])
  local beats, activities = 2 * unseen, 2 * unseen + coordinators
  local related = activities + coordinators
  local last = #KEYS - (orphaned and 1 or 0)

  local newcomers = find_newcomers(unseen)
  if #newcomers > 0 then return {{}, 0, newcomers} end

  local values = values_of(KEYS, beats + 1, related)
  if unchanged(values) then return {{}, reap(KEYS, (keep_heartbeats and related or beats) + 1, last), {}} end

  local ids = {}
  for number = 1, coordinators do ids[number] = after(KEYS[beats + number], 'blocking:heartbeat:') end
  local notes = orphaned and redis.call('HMGET', KEYS[#KEYS], unpack(ids))
  local verdicts, doomed, reaped = {}, {}, {}
  local next_key, number = related + 1, 0
  for own in ARGV[7]:gmatch('%d+') do
    number = number + 1
    local heartbeat, activity = values[number], values[coordinators + number]
    local verdict = orphaned and judge_orphan(KEYS[beats + number], activity, notes[number])
      or judge(KEYS[beats + number], heartbeat, activity)
    verdicts[number] = verdict
    if verdict == REAPED then
      reaped[#reaped + 1] = ids[number]
      if not keep_heartbeats then
        doomed[#doomed + 1] = KEYS[beats + number]
        doomed[#doomed + 1] = KEYS[activities + number]
      end
      for position = next_key, next_key + own - 1 do doomed[#doomed + 1] = KEYS[position] end
    end
    next_key = next_key + own
  end
  for owners in ARGV[8]:gmatch('[^;]+') do
    local verdict = REAPED
    for owner in owners:gmatch('%d+') do verdict = math.min(verdict, verdicts[tonumber(owner)]) end
    verdicts[#verdicts + 1] = verdict
    if verdict == REAPED then doomed[#doomed + 1] = KEYS[next_key] end
    next_key = next_key + 1
  end
  local deleted = reap(doomed, 1, #doomed)
  if orphaned and #reaped > 0 and not dry_run and not keep_heartbeats then
    redis.call('HDEL', KEYS[#KEYS], unpack(reaped))
  end
  return {verdicts, deleted, {}}
end

-- Without KEYS: find them too, by hand --------------------------------------------------------------

local function scan(pattern, visit)
  local seen = {}
  local cursor = '0'
  repeat
    local page = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = page[1]
    for _, key in ipairs(page[2]) do
      if not seen[key] then
        seen[key] = true
        visit(key)
      end
    end
  until cursor == '0'
end

-- Calls visit(id) for every id that may own the key, twin of cleanup_tasks/keys.py.
local function each_possible_owner(key, visit)
  local ack = after(key, 'blocking:ack:')
  local name = ack or after(key, 'blocking:idempotency:')
  if not name then return end
  local starts = {1}
  for colon in name:gmatch('():') do starts[#starts + 1] = colon + 1 end
  if #starts > MAX_SEGMENTS then return end
  starts[#starts + 1] = #name + 2
  for first = 1, ack and 1 or #starts - 1 do
    for last = first + 1, #starts - (ack and 1 or 0) do
      visit(name:sub(starts[first], starts[last] - 2))
    end
  end
end

-- The id as JSON text; bytes that are no UTF-8 appear as \xNN, as in the task's metrics.
local function json_text(id)
  local text = ''
  local at = 1
  while at <= #id do
    local character = id:match('^[%z\1-\127]+', at) or id:match('^[\194-\223][\128-\191]', at)
      or id:match('^\224[\160-\191][\128-\191]', at) or id:match('^[\225-\236\238\239][\128-\191][\128-\191]', at)
      or id:match('^\237[\128-\159][\128-\191]', at) or id:match('^\240[\144-\191][\128-\191][\128-\191]', at)
      or id:match('^[\241-\243][\128-\191][\128-\191][\128-\191]', at)
      or id:match('^\244[\128-\143][\128-\191][\128-\191]', at)
    text = text .. (character or ('\\x%02x'):format(id:byte(at)))
    at = at + (character and #character or 1)
  end
  return cjson.encode(text)
end

local function reap_found()
  local cpu = rawget(_G, 'os')
  local cpu_started = cpu and cpu.clock()
  local size = redis.call('DBSIZE')
  if size > MAX_KEYS_BY_HAND then
    return redis.error_reply(('ERR %d keys are too many for one script (at most %d): use the command'
      .. ' cleanup-blocking-coordination; nothing was touched'):format(size, MAX_KEYS_BY_HAND))
  end

  local ids, judged = {}, {}
  scan('blocking:heartbeat:*', function(key)
    local id = after(key, 'blocking:heartbeat:')
    ids[#ids + 1] = id
    judged[#judged + 1] = key
    judged[#judged + 1] = 'coordinator:activity:' .. id
  end)
  local values = values_of(judged, 1, #judged)
  local doomed, stale, kept = {}, {}, {}
  local stale_texts = {}
  for number, id in ipairs(ids) do
    local at = 2 * number - 1
    if judge(judged[at], values[at], values[at + 1]) == REAPED then
      stale[id] = true
      stale_texts[#stale_texts + 1] = json_text(id)
      for _, key in ipairs({judged[at], judged[at + 1], 'blocking:signal:' .. id}) do doomed[#doomed + 1] = key end
    else
      kept[id] = true
    end
  end

  if #stale_texts > 0 then
    scan('blocking:[ai]*', function(key)
      local owned, disputed = false, false
      each_possible_owner(key, function(id)
        owned = owned or stale[id]
        disputed = disputed or kept[id]
      end)
      if owned and not disputed then doomed[#doomed + 1] = key end
    end)
  end

  local deleted = reap(doomed, 1, #doomed)
  local finish = redis.call('TIME')
  local elapsed_ms = (finish[1] - clock[1]) * 1000 + math.floor((finish[2] - clock[2]) / 1000)
  -- Newer servers stop that clock while a script runs; processor time is as good, for nobody else ran.
  if cpu then elapsed_ms = math.max(elapsed_ms, math.floor((cpu.clock() - cpu_started) * 1000 + 0.5)) end
  return ('{"totalCoordinatorsChecked":%d,"staleCoordinatorsFound":%d,"keysDeleted":%d,"executionTimeMs":%d,'
    .. '"staleCoordinatorIds":[%s]}'):format(#ids, #stale_texts, deleted, elapsed_ms, table.concat(stale_texts, ','))
end

return by_hand and reap_found() or reap_given()
