-- Take from N sliding windows, all or nothing; if they allow it, read one cache entry and the versions of its tags.
-- KEYS   one window per charge, all different   then, if anything is to be read: the version table, the entry, its lease
-- ARGV   [1] fixed time in ms for tests, else ''   [2] '1' to commit, '0' to look   [3] number of charges
--        [4] what to read: '' nothing, 'v' versions, 'e' the entry too   [5] lease_ms, 0 for none
--        [6] 8 random bytes, for a version table that is not there   [7] the vector that the caller holds, else ''
--        then per charge: quota, window_ms, cost, shadow ('1' refuses nobody)   then the buckets of the tags
-- reply  {allowed, now_ms, then per charge: fits, used, remaining, retry_after_ms, renew_ms, reset_ms,
--         then, if something was read: state, vector, ms, value}
--        retry_after_ms is -1 when the cost exceeds the quota
--        state: 0 hit (ms: the entry's life) · 1 the held vector is current · 2 the lease is the caller's
--               3 somebody else has it (ms: for how long) · 4 nothing
-- cost   O(N + tags): per charge one GET and at most one SET, plus the counters that ran out since the last write (at
--        most 61); per tag one GETRANGE, and one more per tag of a found entry
--
-- An entry: version 1 (byte), number of tags (byte), epoch (8 bytes), per tag its bucket (u32) and version (u32), length
-- of the value (u32), value. An entry that does not add up is none.
-- A lease holds the vector that its load is for. One for another vector binds nobody: what it loads will be refused.
-- `now` in ms and `micros`: the server's time, or ARGV[1] (ms) when a test fixed it.
local now, micros
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
  micros = now * 1000
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  micros = time[1] * 1000000 + time[2]
end

-- Numbers of this size lose digits when Lua writes them itself.
local function whole(number)
  return string.format('%.0f', number)
end

-- A sliding window as one string: version 1 (byte), newest counter's index (double), window_ms (double), total (u32),
-- then 61 counters (u32); the counter with index b sits in place b % 61. Unknown versions and other window lengths
-- count as empty; a string of version 1 with another length is damaged, and said to be.
local VERSION, HEADER = 1, '>BddI4'
local FIRST = struct.size(HEADER) + 1
local LENGTH = FIRST - 1 + 244

local function opens_at(counter, window)
  return math.ceil(counter * window / 60)
end

local function place(counter)
  return FIRST + (counter % 61) * 4
end

local function with(ring, at, units)
  return string.sub(ring, 1, at - 1) .. struct.pack('>I4', units) .. string.sub(ring, at + 4)
end

local function read(ring, window)
  if not ring or string.byte(ring) ~= VERSION then return nil end
  if #ring ~= LENGTH then error('a window has ' .. #ring .. ' bytes, expected ' .. LENGTH) end
  local _, newest, stored_window, total = struct.unpack(HEADER, ring)
  if stored_window ~= window then return nil end
  return newest, total
end

-- Returns the string with what ran out set to zero, the newest and the current counter's index, and the total.
local function advance(ring, window)
  local current = math.floor(now * 60 / window)
  local newest, total = read(ring, window)
  -- A clock set back by more than a window, or forward past it, leaves nothing to count.
  if not newest or math.abs(current - newest) >= 61 then return nil, current, current, 0 end
  for counter = newest - 60, current - 61 do
    local units = struct.unpack('>I4', ring, place(counter))
    if units > 0 then
      total = total - units
      ring = with(ring, place(counter), 0)
    end
  end
  return ring, newest, math.max(current, newest), total
end

-- Adds to one counter of an advanced string. Between the newest and the current counter lie only places that are zero.
local function add(ring, counter, units)
  ring = ring or string.rep('\0', LENGTH)
  local at = place(counter)
  return with(ring, at, struct.unpack('>I4', ring, at) + units)
end

local function keep(key, ring, newest, window, total)
  ring = struct.pack(HEADER, VERSION, newest, window, total) .. string.sub(ring, FIRST)
  redis.call('SET', key, ring, 'PX', whole(math.max(1, opens_at(newest + 61, window) - now)))
  return ring
end

-- When `units` of those counted have left the window.
local function freed_at(ring, newest, window, units)
  for counter = newest - 60, newest do
    units = units - struct.unpack('>I4', ring, place(counter))
    if units <= 0 then return opens_at(counter + 61, window) end
  end
end

-- Appends to the reply where an advanced window stands: fits, used, remaining, retry_after_ms, renew_ms, reset_ms.
local function tell_window(reply, c)
  local remaining, retry, renew, reset = math.max(0, c.quota - c.total), 0, 0, 0
  if not c.fits then
    if c.cost > c.quota then retry = -1
    else retry = freed_at(c.ring, c.newest, c.window, c.total + c.cost - c.quota) - now end
  end
  if c.total > 0 then
    reset = opens_at(c.newest + 61, c.window) - now
    if remaining == 0 and c.quota > 0 then
      renew = freed_at(c.ring, c.newest, c.window, 1 + c.total - c.quota) - now
    end
  end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = c.fits and 1 or 0, c.total, remaining
  reply[n + 4], reply[n + 5], reply[n + 6] = retry, renew, reset
end

-- The version table: epoch (8 bytes), then 65536 versions (u32). Its owner is the namespace's cache: it has no expiry and
-- a fixed size. When it was lost, a new epoch makes all older entries stale.
local TABLE_BYTES = 8 + 65536 * 4

-- Says whether the table is there. Call it before anything is written: something else under its name is an error.
local function has_table(key)
  local size = redis.call('STRLEN', key)
  if size ~= 0 and size ~= TABLE_BYTES then error('the version table has ' .. size .. ' bytes, expected ' .. TABLE_BYTES) end
  return size ~= 0
end

-- Returns the epoch; a table that is not there is made, with `seed` for its epoch.
local function epoch_of(key, seed)
  if has_table(key) then return redis.call('GETRANGE', key, 0, 7) end
  redis.call('SETRANGE', key, TABLE_BYTES - 1, '\0')
  redis.call('SETRANGE', key, 0, seed)
  return seed
end

local function version_of(key, bucket)
  local at = 8 + bucket * 4
  return redis.call('GETRANGE', key, at, at + 3)
end

-- Returns the epoch and the versions of the buckets in ARGV[first] to ARGV[last].
local function vector_of(key, epoch, first, last)
  local parts = {epoch}
  for i = first, last do parts[#parts + 1] = version_of(key, tonumber(ARGV[i])) end
  return table.concat(parts)
end

local function value_of(entry, versions, epoch)
  if type(entry) ~= 'string' or #entry < 14 or string.byte(entry) ~= 1 then return nil end
  local tags = string.byte(entry, 2)
  local at = 11 + tags * 8
  if #entry < at + 3 or struct.unpack('>I4', entry, at) ~= #entry - at - 3 then return nil end
  if string.sub(entry, 3, 10) ~= epoch then return nil end
  for first = 11, at - 8, 8 do
    local bucket = struct.unpack('>I4', entry, first)
    if version_of(versions, bucket) ~= string.sub(entry, first + 4, first + 7) then return nil end
  end
  return string.sub(entry, at + 4)
end

-- Appends to the reply: state, vector, ms, value. The keys from `first_key` on are the version table, the entry and its
-- lease; ARGV[4] to ARGV[7] say what to read, and the buckets of the tags stand from ARGV[first_tag] on.
local function read_cache(reply, first_key, first_tag)
  local versions, key, lease = KEYS[first_key], KEYS[first_key + 1], KEYS[first_key + 2]
  local epoch = epoch_of(versions, ARGV[6])
  local vector = vector_of(versions, epoch, first_tag, #ARGV)
  local function answer(state, ms, value)
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = state, vector, ms, value or ''
    return reply
  end
  if ARGV[7] == vector then return answer(1, 0) end
  if ARGV[4] ~= 'e' then return answer(4, 0) end
  -- Something else under the entry's key is no entry; the next store replaces it.
  local value = value_of(redis.pcall('GET', key), versions, epoch)
  if value then return answer(0, math.max(0, redis.call('PTTL', key)), value) end
  if ARGV[5] == '0' then return answer(4, 0) end
  if redis.pcall('GET', lease) == vector then return answer(3, math.max(1, redis.call('PTTL', lease))) end
  redis.call('SET', lease, vector, 'PX', ARGV[5])
  return answer(2, 0)
end


local count = tonumber(ARGV[3])
if ARGV[4] ~= '' then has_table(KEYS[count + 1]) end
local allowed = 1
local charges = {}
for i = 1, count do
  local first = 8 + (i - 1) * 4
  local charge = {
    quota = tonumber(ARGV[first]), window = tonumber(ARGV[first + 1]), cost = tonumber(ARGV[first + 2]),
  }
  charge.ring, charge.newest, charge.current, charge.total = advance(redis.call('GET', KEYS[i]), charge.window)
  charge.fits = charge.total + charge.cost <= charge.quota
  if not charge.fits and ARGV[first + 3] ~= '1' then allowed = 0 end
  charges[i] = charge
end

local reply = {allowed, now}
for i = 1, count do
  local c = charges[i]
  if allowed == 1 and ARGV[2] == '1' and c.fits and c.cost > 0 then
    c.total, c.newest = c.total + c.cost, c.current
    c.ring = keep(KEYS[i], add(c.ring, c.current, c.cost), c.newest, c.window, c.total)
  end
  tell_window(reply, c)
end
if allowed == 1 and ARGV[4] ~= '' then return read_cache(reply, count + 1, 8 + count * 4) end
return reply