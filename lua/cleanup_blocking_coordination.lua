-- Finds the coordinators that are stale by their heartbeat and activity, and removes their keys; by hand:
--
--   redis-cli --eval lua/cleanup_blocking_coordination.lua , 600 1
--
-- It has no memory between calls, so it can't notice that everybody looks stale at once, as after an outage:
-- do a dry run first. It does all in one call and holds the server meanwhile, so it refuses large databases,
-- and clusters, for one node does not see all. It doesn't look for coordinators without heartbeat.
--
-- Key families (<id> is any bytes, compared whole, never a pattern):
--   blocking:heartbeat:<id>          string  sign of life
--   coordinator:activity:<id>        string  time of the last work
--   blocking:signal:<id>             string  a message that waits for it
--   blocking:ack:<id>:<signal>       string  its answer to a signal
--   blocking:idempotency:<message>   string  a handled message, names its parties; mostly of the form
--                                            <sender>:<receiver>:<type>:<iteration>:<ms>
--
-- KEYS  none
-- ARGV  1 threshold, whole seconds        2 dry run, 0 or 1
-- Returns JSON text with totalCoordinatorsChecked, staleCoordinatorsFound, keysDeleted (in a dry run: how
--       many would go), executionTimeMs and staleCoordinatorIds.
--
-- No shebang line: Redis 6.2 knows none, and with one it is refused just when memory is short.

local FIELDS = {'timestamp', 'lastHeartbeat', 'lastActivity'}
local LITERALS = {['true'] = true, ['false'] = true, ['null'] = true}
-- Below this a "time in ms" is a time in seconds, or nonsense; further ahead than a day it is nonsense too.
local EARLIEST_MS = 1000000000000
local FUTURE_MS = 86400000
-- A value that is nested deeper, or longer, is not read.
local MAX_DEPTH = 100
local MAX_BYTES = 65536
-- A name with more colon-separated segments has more possible owners than is worth asking about.
local MAX_SEGMENTS = 32
-- unpack fails at 8,000 values.
local MAX_ARGUMENTS = 5000
-- One or two seconds of the server's time.
local MAX_KEYS = 250000

-- The digits as a number; nothing if the text is missing or holds anything else.
local function whole_number(text)
  return text and text:find('^%d+$') and tonumber(text)
end

local threshold_s = whole_number(ARGV[1])
if #KEYS > 0 or #ARGV ~= 2 or not threshold_s or #ARGV[1] > 9 or not (ARGV[2] == '0' or ARGV[2] == '1') then
  return redis.error_reply('ERR usage: redis-cli --eval cleanup_blocking_coordination.lua , SECONDS DRYRUN'
    .. ' (mind the comma; SECONDS a whole number of at most 9 digits, DRYRUN 0 or 1); nothing was touched')
end
local dry_run = ARGV[2] == '1'
if redis.call('INFO', 'cluster'):find('cluster_enabled:1', 1, true) then
  return redis.error_reply('ERR one node of a cluster does not see all coordinators: use the command'
    .. ' cleanup-blocking-coordination; nothing was touched')
end
-- Redis 6.2 may be told to replicate scripts as they are, and then permits no write after TIME, unless:
if redis.replicate_commands then redis.replicate_commands() end
local size = redis.call('DBSIZE')
if size > MAX_KEYS then
  return redis.error_reply(('ERR %d keys are too many for one script (at most %d): use the command'
    .. ' cleanup-blocking-coordination; nothing was touched'):format(size, MAX_KEYS))
end
local cpu = rawget(_G, 'os')
local cpu_started = cpu and cpu.clock()
local clock = redis.call('TIME')
local now_s = tonumber(clock[1])
local now_ms = now_s * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- Who is stale: the twin of cleanup_tasks/rules/staleness.py --------------------------------------

-- Whether a text is a number as JSON writes it; cjson also takes hexadecimal, nan, inf, 01, "1." and "-.5".
local function is_json_number(token)
  local mantissa = token:gsub('[eE][+-]?%d+$', '')
  return (mantissa:find('^%-?%d+$') or mantissa:find('^%-?%d+%.%d+$')) and not mantissa:find('^%-?0%d')
end

local function is_too_deep(skeleton)
  local depth = 0
  for bracket in skeleton:gmatch('[%[%]{}]') do
    depth = depth + ((bracket == '[' or bracket == '{') and 1 or -1)
    if depth > MAX_DEPTH then return true end
  end
  return false
end

-- Whether what a document holds besides strings is plain JSON, and not too deep.
local function is_plain(document)
  local skeleton = document
  if skeleton:find('\\', 1, true) then skeleton = skeleton:gsub('\\.', '') end
  skeleton = skeleton:gsub('"[^"]*"', '')
  for token in skeleton:gmatch('[^%s{}%[%]:,]+') do
    if not (token:find('^[1-9]%d*$') or LITERALS[token] or is_json_number(token)) then return false end
  end
  return #skeleton <= MAX_DEPTH or not is_too_deep(skeleton)
end

-- The number if it can be a time in ms, else nil.
local function plausible(number)
  local possible = type(number) == 'number' and number >= EARLIEST_MS and number <= now_ms + FUTURE_MS
  return possible and number or nil
end

-- What a key holds, up to a byte more than is read; empty where it holds no string.
local function value_of(key)
  local value = redis.pcall('GETRANGE', key, 0, MAX_BYTES)
  if type(value) == 'string' then return value end
  return value.err:find('WRONGTYPE', 1, true) and '' or redis.call('GETRANGE', key, 0, MAX_BYTES)
end

-- The time in ms that the value of a key yields, or nil.
local function time_of(key)
  local value = value_of(key)
  if #value > MAX_BYTES or not is_plain(value) then return nil end
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

-- Whether there is a time, and it is more than the threshold ago, both in whole seconds.
local function is_old(time)
  return time ~= nil and now_s - math.floor(time / 1000) > threshold_s
end

-- Whether there is a time, and it is not older than that.
local function is_fresh(time)
  return time ~= nil and not is_old(time)
end

-- Reading and deleting ----------------------------------------------------------------------------

local function after(key, prefix)
  return key:sub(1, #prefix) == prefix and key:sub(#prefix + 1) or nil
end

-- Calls visit(key) once for every key that matches a pattern.
local function each_key(pattern, visit)
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

-- Deletes keys, or counts them in a dry run; returns how many there were.
local function reap(keys)
  local command, total = dry_run and 'EXISTS' or 'UNLINK', 0
  for first = 1, #keys, MAX_ARGUMENTS do
    total = total + redis.call(command, unpack(keys, first, math.min(#keys, first + MAX_ARGUMENTS - 1)))
  end
  return total
end

-- Who owns a key: the twin of cleanup_tasks/rules/keys.py -----------------------------------------

-- Known id -> whether it is stale. Known are all ids with a heartbeat of whatever type, for nothing comes or
-- goes while the script runs.
local is_stale = {}
-- Which numbers of segments known ids have, up to the most that count.
local id_lengths = {}

local function know(id, stale)
  local _, colons = id:gsub(':', ':')
  if colons < MAX_SEGMENTS then id_lengths[colons + 1] = true end
  is_stale[id] = stale
end

-- Where each segment of a name begins, and last where a further one would; nil if there are too many.
local function segments_of(name)
  local starts = {1}
  for start in name:gmatch(':()') do
    if #starts == MAX_SEGMENTS then return nil end
    starts[#starts + 1] = start
  end
  starts[#starts + 1] = #name + 2
  return starts
end

-- Looks for known ids among the runs of whole segments that begin with segment `latest` or before, and end
-- with segment `last` or before. Returns which segments they cover; nil if there is no such id, or one that is
-- not stale.
local function stale_segments(name, starts, latest, last)
  local covered
  for length in pairs(id_lengths) do
    for first = 1, math.min(latest, last - length + 1) do
      local stale = is_stale[name:sub(starts[first], starts[first + length] - 2)]
      if stale == false then return nil end
      if stale then
        covered = covered or {}
        for segment = first, first + length - 1 do covered[segment] = true end
      end
    end
  end
  return covered
end

-- Whether an id has a fresh activity.
local is_working = {}
local function works(id)
  if is_working[id] == nil then
    is_working[id] = is_fresh(time_of('coordinator:activity:' .. id))
  end
  return is_working[id]
end

-- Whether an ack goes, by its name after the family's prefix: <id>:<signal>.
local function is_due_ack(name)
  local starts = segments_of(name)
  return starts and stale_segments(name, starts, 1, #starts - 2)
end

-- Whether an idempotency record goes, by its name after the family's prefix: the message.
local function is_due_record(name)
  local starts = segments_of(name)
  if not starts then return false end
  local last = #starts - 1
  local iteration = last >= 5 and whole_number(name:sub(starts[last - 1], starts[last] - 2))
  local sent_ms = iteration and whole_number(name:sub(starts[last]))
  if not sent_ms then return stale_segments(name, starts, last, last) end

  -- <sender>:<receiver>:<type>:<iteration>:<ms>. What no known id covers is a party without heartbeat. It may
  -- be paused, and is gone only if the message is old and its activity is not fresh.
  local last_party = last - 3
  local covered = stale_segments(name, starts, last_party, last_party)
  if not covered then return false end
  -- Whether the segments from one to before another are a party that nobody knows, and that may be paused.
  local function may_be_paused(from, to)
    local party = name:sub(starts[from], starts[to] - 2)
    return is_stale[party] == nil and (not is_old(plausible(sent_ms)) or works(party))
  end
  if last_party == 2 then  -- each is a party, also where both together are somebody's id
    return not (may_be_paused(1, 2) or may_be_paused(2, 3))
  end
  local first
  for segment = 1, last_party + 1 do
    if segment <= last_party and not covered[segment] then
      first = first or segment
    elseif first then
      if may_be_paused(first, segment) then return false end
      first = nil
    end
  end
  return true
end

-- The call itself ---------------------------------------------------------------------------------

-- The id as JSON text; bytes that are no UTF-8 appear as \xNN.
local function json_text(id)
  local text = ''
  local at = 1
  while at <= #id do
    local character = id:match('^[%z\1-\127]+', at)
      or id:match('^[\194-\223][\128-\191]', at)
      or id:match('^\224[\160-\191][\128-\191]', at)
      or id:match('^[\225-\236\238\239][\128-\191][\128-\191]', at)
      or id:match('^\237[\128-\159][\128-\191]', at)
      or id:match('^\240[\144-\191][\128-\191][\128-\191]', at)
      or id:match('^[\241-\243][\128-\191][\128-\191][\128-\191]', at)
      or id:match('^\244[\128-\143][\128-\191][\128-\191]', at)
    text = text .. (character or ('\\x%02x'):format(id:byte(at)))
    at = at + (character and #character or 1)
  end
  return cjson.encode(text)
end

-- Families whose names end with the whole id, as in cleanup_tasks/rules/keys.py.
local WHOLE_ID = {'blocking:signal:', 'coordinator:activity:'}

local checked, doomed, stale_ids = 0, {}, {}
each_key('blocking:heartbeat:*', function(key)
  local id = after(key, 'blocking:heartbeat:')
  local stale = is_old(time_of(key)) and not is_fresh(time_of('coordinator:activity:' .. id))
  checked = checked + 1
  know(id, stale)
  if stale then
    stale_ids[#stale_ids + 1] = json_text(id)
    doomed[#doomed + 1] = key
    for _, family in ipairs(WHOLE_ID) do doomed[#doomed + 1] = family .. id end
  end
end)

if #stale_ids > 0 then
  each_key('blocking:[ai]*', function(key)
    local ack, message = after(key, 'blocking:ack:'), after(key, 'blocking:idempotency:')
    if ack and is_due_ack(ack) or message and is_due_record(message) then doomed[#doomed + 1] = key end
  end)
end

local deleted = reap(doomed)
local finish = redis.call('TIME')
local elapsed_ms = (finish[1] - clock[1]) * 1000 + math.floor((finish[2] - clock[2]) / 1000)
-- Newer servers stop that clock while a script runs; processor time is as good, for nobody else ran.
if cpu then elapsed_ms = math.max(elapsed_ms, math.floor((cpu.clock() - cpu_started) * 1000 + 0.5)) end
return ('{"totalCoordinatorsChecked":%d,"staleCoordinatorsFound":%d,"keysDeleted":%d,"executionTimeMs":%d'
  .. ',"staleCoordinatorIds":[%s]}'):format(
  checked, #stale_ids, deleted, elapsed_ms, table.concat(stale_ids, ','))
