-- Deletes groups of keys, each only if nothing that it was judged by has changed since.
--
-- KEYS  the keys of the guards: first those that are values, then those that are fields of hashes, then those
--       that must be absent; then the keys of all groups, group after group.
-- ARGV  1  the server's time in ms since the epoch at which all was judged: before it, nothing is deleted
--       2  1 for a dry run, which counts what would go, else 0
--       3  how many guards are values: a string with this value, or beginning with it where it has 65,537 bytes,
--          or, where it is empty, a key that is missing, empty or of another type
--       4  how many are fields: a hash of which a field has this value
--       5  how many are absent keys: no key of any type
--       6  the groups, as 32-bit numbers, the low byte first; for each group: how many keys it has, how many
--          guards, and the guards' numbers: values from 0, fields from 1,000,000, absent keys from 2,000,000
--       then the value that is expected of each guard that is one; then each field's name and value
-- Returns the number of keys deleted, and the numbers from 0 of the groups that were kept; nothing of this where
-- it is not that late yet, for then nothing is deleted.
--
-- A call whose numbers don't add up is refused, and nothing is touched. No shebang line: Redis 6.2 knows none,
-- and with one a script is refused when memory is full, just when deleting is needed most.

-- unpack fails at 8,000 values.
local MAX_ARGUMENTS = 5000
-- No more of a value is read, whatever it has become.
local LAST_BYTE = '65536'
local FIRST_FIELD, FIRST_ABSENT = 1000000, 2000000

local judged_at, dry_run, layout = ARGV[1], ARGV[2], ARGV[6]
local values, fields, absent = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- The number at a place in the layout; nil where it ends before or in the middle.
local function number_at(at)
  local a, b, c, d = layout:byte(at, at + 3)
  return d and a + 256 * (b + 256 * (c + 256 * d))
end

-- Whether the groups hold so many keys. Their guards' numbers matter only where a guard has changed.
local function groups_hold(number)
  local at = 1
  while at <= #layout do
    local its_keys, its_guards = number_at(at), number_at(at + 4)
    if not its_guards then return false end
    at, number = at + 8 + 4 * its_guards, number - its_keys
  end
  return at == #layout + 1 and number == 0
end

local function is_number(text) return text:find('^%d+$') end

if #ARGV < 6 or not judged_at:find('^%d%d%d%d%d%d%d%d%d%d%d%d%d+$') or not (dry_run == '0' or dry_run == '1')
  or not (is_number(ARGV[3]) and is_number(ARGV[4]) and is_number(ARGV[5]))
  or #ARGV ~= 6 + values + 2 * fields or not groups_hold(#KEYS - values - fields - absent) then
  return redis.error_reply('ERR the numbers of this call do not add up; nothing was touched')
end

-- The sum of a command's answers for a list of keys.
local function count(command, list, first, last)
  local total = 0
  for from = first, last, MAX_ARGUMENTS do
    total = total + redis.call(command, unpack(list, from, math.min(last, from + MAX_ARGUMENTS - 1)))
  end
  return total
end

-- What a guard's key holds, empty where that is no string.
local function read(key)
  local value = redis.pcall('GETRANGE', key, '0', LAST_BYTE)
  if type(value) == 'string' then return value end
  return value.err:find('WRONGTYPE', 1, true) and '' or redis.call('GETRANGE', key, '0', LAST_BYTE)
end

-- The guards that have changed, as a set of their numbers.
local function find_changed()
  local changed, any = {}, false
  local function note(number) changed[number], any = true, true end
  for value = 1, values do
    if read(KEYS[value]) ~= ARGV[6 + value] then note(value - 1) end
  end
  for field = 1, fields do
    local its = 6 + values + 2 * field
    local answer = redis.pcall('HMGET', KEYS[values + field], ARGV[its - 1])
    if answer[1] ~= ARGV[its] then note(FIRST_FIELD + field - 1) end
  end
  local before = values + fields
  if count('EXISTS', KEYS, before + 1, before + absent) > 0 then
    for key = 1, absent do
      if redis.call('EXISTS', KEYS[before + key]) == 1 then note(FIRST_ABSENT + key - 1) end
    end
  end
  return any and changed
end

-- Whether there is a guard of this number.
local function is_guard(number)
  if number < FIRST_FIELD then return number < values end
  if number < FIRST_ABSENT then return number - FIRST_FIELD < fields end
  return number - FIRST_ABSENT < absent
end

-- Redis 6.2 may be told to replicate scripts as they are, and then permits no write after TIME, unless:
if redis.replicate_commands then redis.replicate_commands() end
local clock = redis.call('TIME')
if clock[1] * 1000 + math.floor(clock[2] / 1000) < tonumber(judged_at) then return {} end
local command = dry_run == '1' and 'EXISTS' or 'UNLINK'
local first = values + fields + absent + 1
local changed = find_changed()
if not changed then return {count(command, KEYS, first, #KEYS), {}} end

local kept, doomed = {}, {}
local at, key, group = 1, first, 0
while at <= #layout do
  local its_keys, its_guards, keep = number_at(at), number_at(at + 4), false
  for guard = 1, its_guards do
    local number = number_at(at + 4 + 4 * guard)
    keep = keep or changed[number] or not is_guard(number)
  end
  if keep then
    kept[#kept + 1] = group
  else
    for position = key, key + its_keys - 1 do doomed[#doomed + 1] = KEYS[position] end
  end
  at, key, group = at + 8 + 4 * its_guards, key + its_keys, group + 1
end
return {count(command, doomed, 1, #doomed), kept}
