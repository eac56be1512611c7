-- Deletes groups of keys, each only if nothing that it was judged by has changed since.
--
-- KEYS  the key of each guard, then the keys of all groups, group after group.
-- ARGV  1  the server's time in ms since the epoch at which all was judged: before it, nothing is deleted
--       2  1 for a dry run, which counts what would go, else 0
--       3  how many of the KEYS are those of groups
--       4  what each guard expects, a letter each: v a string with this value, or beginning with it where it
--          has 65,537 bytes, or, where it is empty, a key that is missing, empty or of another type; a no key of
--          any type; f a hash of which a field has this value
--       5  the groups, as 16-bit numbers, the low byte first; for each group: how many guards it has, their
--          numbers from 0, and how many keys
--       then for each guard the expected value (empty for a); then for each guard f the field's name
-- Returns the number of keys deleted, and the numbers from 0 of the groups that were kept.
--
-- A call whose numbers don't add up is refused, and nothing is touched. No shebang line: Redis 6.2 knows none,
-- and with one a script is refused when memory is full, just when deleting is needed most.

-- unpack fails at 8,000 values.
local MAX_ARGUMENTS = 5000
-- No more of a value is read, whatever it has become.
local LAST_BYTE = '65536'
local VALUE, ABSENT, FIELD = ('vaf'):byte(1, 3)

local judged_at, dry_run, group_keys, kinds, layout = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local guards, fields = #KEYS - (group_keys or 0), kinds and select(2, kinds:gsub('f', ''))

-- The 16-bit number at a place in the layout.
local function number_at(at)
  local low, high = layout:byte(at, at + 1)
  return high and low + 256 * high
end

-- Whether the groups hold all keys. Their guards' numbers matter only where a guard has changed.
local function groups_add_up()
  local at, keys = 1, 0
  while at <= #layout do
    local its_guards = number_at(at)
    local its_keys = its_guards and number_at(at + 2 + 2 * its_guards)
    if not its_keys then return false end
    at, keys = at + 4 + 2 * its_guards, keys + its_keys
  end
  return keys == group_keys
end

if #ARGV < 5 or not judged_at:find('^%d%d%d%d%d%d%d%d%d%d%d%d%d+$') or not (dry_run == '0' or dry_run == '1')
  or #kinds ~= guards or kinds:find('[^vaf]') or #ARGV ~= 5 + guards + fields or not groups_add_up() then
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

-- The guards that have changed, as a set of their numbers from 1.
local function find_changed()
  local changed, absent, any = {}, {}, false
  local field = 5 + guards
  for guard = 1, guards do
    local kind, value, expected = kinds:byte(guard), '', ARGV[5 + guard]
    if kind == VALUE then
      value = read(KEYS[guard])
    elseif kind == FIELD then
      field = field + 1
      value = redis.pcall('HMGET', KEYS[guard], ARGV[field])[1]
    else
      absent[#absent + 1] = KEYS[guard]
    end
    if value ~= expected then changed[guard], any = true, true end
  end
  if #absent > 0 and count('EXISTS', absent, 1, #absent) > 0 then
    for guard = 1, guards do
      if kinds:byte(guard) == ABSENT and redis.call('EXISTS', KEYS[guard]) == 1 then
        changed[guard], any = true, true
      end
    end
  end
  return any and changed
end

-- Redis 6.2 may be told to replicate scripts as they are, and then permits no write after TIME, unless:
if redis.replicate_commands then redis.replicate_commands() end
local clock = redis.call('TIME')
local too_early = clock[1] * 1000 + math.floor(clock[2] / 1000) < tonumber(judged_at)
local command = dry_run == '1' and 'EXISTS' or 'UNLINK'
local changed = not too_early and find_changed()
if not (changed or too_early) then return {count(command, KEYS, guards + 1, #KEYS), {}} end

local kept, doomed = {}, {}
local at, key, group = 1, guards, 0
while at <= #layout do
  local its_guards, keep = number_at(at), too_early
  for position = 1, its_guards do
    local guard = number_at(at + 2 * position) + 1
    keep = keep or changed[guard] or guard > guards
  end
  local its_keys = number_at(at + 2 + 2 * its_guards)
  if keep then
    kept[#kept + 1] = group
  else
    for position = key + 1, key + its_keys do doomed[#doomed + 1] = KEYS[position] end
  end
  at, key, group = at + 4 + 2 * its_guards, key + its_keys, group + 1
end
return {count(command, doomed, 1, #doomed), kept}
