-- Take from N windows, buckets and leases, all or nothing, unless the caller is shut out; a refusal is a strike against
-- it. If all is allowed, read one cache entry and the versions of its tags.
-- KEYS   one per charge, all different   then the offender, if there is one   then, if anything is to be read: the version
--        table, the entry, its lease
-- ARGV   [1] fixed time in ms for tests, else ''   [2] '1' to commit, '0' to look, '2' to take whether it fits or not
--        [3] number of charges   [4] to [7] what to read, as in enter.lua   [8] holder of the leases
--        [9] how many numbers there are about the offender, 0 for none
--        then per charge: kind (w, b or l), quota, window_ms, cost, shadow ('1' refuses nobody), burst
--        then about the offender: strikes, knocks, threshold, decay_ms, forget_ms, apart_ms, lengths of the blocks
--        then the buckets of the tags
-- reply  {allowed, now_ms, then per charge: fits, used, remaining, retry_after_ms, renew_ms, reset_ms,
--         then, if there is an offender: blocked_ms, strikes, level, then, if something was read: state, vector, ms, value}
-- cost   O(N + tags): per charge as enter.lua, or one GET and SET (bucket), or one ZCOUNT, ZADD and ZREMRANGEBYSCORE (lease);
--        the offender one HMGET, and HSET and PEXPIRE when it is struck
--
-- A lease: a sorted set of holders by the moment at which they lose it.
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

-- A bucket (GCRA) as one string: version 2 (byte), then the moment at which it is full again in microseconds (double).
-- Anything else counts as a full bucket. A moment that is later than an empty bucket's comes from a larger quota.
local BUCKET_VERSION, BUCKET = 2, '>Bd'

-- Sets of a charge: every (microseconds per unit), most (for all of them), full (the moment).
local function open_bucket(found, c)
  c.every = math.ceil(c.window * 1000 / c.quota)
  c.most = c.every * c.burst
  c.full = micros
  if type(found) == 'string' and #found == struct.size(BUCKET) and string.byte(found) == BUCKET_VERSION then
    local _, full = struct.unpack(BUCKET, found)
    c.full = math.max(micros, math.min(full, micros + c.most))
  end
  c.fits = c.full + c.every * c.cost - c.most <= micros
end

local function keep_bucket(key, c)
  if c.full <= micros then return redis.call('DEL', key) end
  redis.call('SET', key, struct.pack(BUCKET, BUCKET_VERSION, c.full), 'PX', whole(math.max(1, math.ceil((c.full - micros) / 1000))))
end

-- An offender: a hash of c (when no strike is left, ms), u (end of the last block, ms), l (blocks when it was imposed) and
-- t (when a decision struck last, ms; missing: never).

local function offender_of(key, decay, forget)
  local found = redis.call('HMGET', key, 'c', 'u', 'l', 't')
  local o = {key = key, decay = decay, forget = forget}
  o.clear, o.ends = math.max(now, tonumber(found[1]) or 0), tonumber(found[2]) or 0
  o.level, o.struck = tonumber(found[3]) or 0, tonumber(found[4]) or 0
  o.last = o.level -- as it was when the last block ended; what is left of it follows from the time since
  if o.ends <= now then o.level = math.max(0, o.last - math.floor((now - o.ends) / forget)) end
  return o
end

-- Counts strikes of one who is not shut out. The lengths of the blocks stand in ARGV[first_block] to ARGV[last_block].
local function strike(o, strikes, threshold, first_block, last_block)
  o.clear = o.clear + strikes * o.decay
  if math.ceil((o.clear - now) / o.decay) >= threshold then
    o.ends = now + tonumber(ARGV[math.min(first_block + o.level, last_block)])
    o.clear, o.level = now, o.level + 1
    o.last = o.level
  end
end

local function keep_offender(o)
  redis.call('HSET', o.key, 'c', whole(o.clear), 'u', whole(o.ends), 'l', o.last)
  if o.struck > 0 then redis.call('HSET', o.key, 't', whole(o.struck)) end
  redis.call('PEXPIRE', o.key, whole(math.max(1, o.clear - now, o.ends + o.forget * o.last - now)))
end

-- Appends to the reply: blocked_ms, strikes, level.
local function tell_offender(reply, o)
  local n = #reply
  reply[n + 1], reply[n + 2] = math.max(0, o.ends - now), math.ceil((o.clear - now) / o.decay)
  reply[n + 3] = o.level
  return reply
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

local LEASE_RETRY = 1000
local count, numbers = tonumber(ARGV[3]), tonumber(ARGV[9])
local about = 10 + count * 6
local last_about = about + numbers - 1
local first_cache_key = count + (numbers > 0 and 2 or 1)
if ARGV[4] ~= '' then has_table(KEYS[first_cache_key]) end

local function open_lease(key, c)
  c.held = redis.call('ZCOUNT', key, '(' .. whole(now), '+inf')
  c.fits = c.held + c.cost <= c.quota
end

-- Everything is read before anything is written: a key that is something else fails the whole.
local offender
if numbers > 0 then offender = offender_of(KEYS[count + 1], tonumber(ARGV[about + 3]), tonumber(ARGV[about + 4])) end
local allowed = true
local charges = {}
for i = 1, count do
  local first = 10 + (i - 1) * 6
  local c = {
    kind = ARGV[first], quota = tonumber(ARGV[first + 1]), window = tonumber(ARGV[first + 2]),
    cost = tonumber(ARGV[first + 3]), burst = tonumber(ARGV[first + 5]),
  }
  if c.kind == 'b' then open_bucket(redis.call('GET', KEYS[i]), c)
  elseif c.kind == 'l' then open_lease(KEYS[i], c)
  else
    c.ring, c.newest, c.current, c.total = advance(redis.call('GET', KEYS[i]), c.window)
    c.fits = c.total + c.cost <= c.quota
  end
  if not c.fits and ARGV[first + 4] ~= '1' then allowed = false end
  charges[i] = c
end

local is_forced, is_look = ARGV[2] == '2', ARGV[2] == '0'
if is_forced then allowed = true
elseif offender then
  local function struck_by(strikes)
    strike(offender, strikes, tonumber(ARGV[about + 2]), about + 6, last_about)
  end
  local knocks, strikes = tonumber(ARGV[about + 1]), tonumber(ARGV[about])
  local is_news = false
  if offender.ends <= now and knocks > 0 and not is_look then
    struck_by(knocks)
    is_news = true
  end
  if offender.ends > now then allowed = false
  elseif not allowed and strikes > 0 and not is_look then
    local since = now - offender.struck
    if since >= tonumber(ARGV[about + 5]) or since < 0 then
      struck_by(strikes)
      offender.struck, is_news = now, true
    end
  end
  if is_news then keep_offender(offender) end
end

local function take(key, c)
  if c.kind == 'b' then
    c.full = math.min(c.full + c.every * c.cost, micros + c.most)
    keep_bucket(key, c)
  elseif c.kind == 'l' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
    for unit = 1, c.cost do redis.call('ZADD', key, whole(now + c.window), ARGV[8] .. '#' .. unit) end
    redis.call('PEXPIRE', key, whole(math.max(c.window, redis.call('PTTL', key))))
    c.held = c.held + c.cost
  else
    local units = math.min(c.cost, 2147483647 - c.total)
    c.total, c.newest = c.total + units, c.current
    c.ring = keep(key, add(c.ring, c.current, units), c.newest, c.window, c.total)
  end
end

local reply = {allowed and 1 or 0, now}
for i = 1, count do
  local c = charges[i]
  if allowed and not is_look and c.cost > 0 and (c.fits or is_forced) then
    take(KEYS[i], c)
    c.fits = true
  end
  local n = #reply
  if c.kind == 'b' then
    local remaining = math.floor((micros + c.most - c.full) / c.every)
    local function wait(units)
      return math.max(0, math.ceil((c.full + c.every * units - c.most - micros) / 1000))
    end
    reply[n + 1], reply[n + 2], reply[n + 3] = c.fits and 1 or 0, c.burst - remaining, remaining
    reply[n + 4] = c.fits and 0 or (c.cost > c.burst and -1 or wait(c.cost))
    reply[n + 5], reply[n + 6] = remaining > 0 and 0 or wait(1), math.ceil((c.full - micros) / 1000)
  elseif c.kind == 'l' then
    local remaining = math.max(0, c.quota - c.held)
    reply[n + 1], reply[n + 2], reply[n + 3] = c.fits and 1 or 0, c.held, remaining
    reply[n + 4] = c.fits and 0 or (c.cost > c.quota and -1 or LEASE_RETRY)
    reply[n + 5], reply[n + 6] = remaining > 0 and 0 or LEASE_RETRY, c.held > 0 and LEASE_RETRY or 0
  else
    tell_window(reply, c)
  end
end
if offender then tell_offender(reply, offender) end
if allowed and ARGV[4] ~= '' then return read_cache(reply, first_cache_key, last_about + 1) end
return reply