-- Take from N windows, buckets and leases, all or nothing, unless the caller is shut out; a refusal is a strike against
-- it. If all is allowed, read one cache entry and the versions of its tags.
-- KEYS   one per charge, all different   then the offender, if there is one   then, if anything is to be read: the version
--        table, the entry, its lease
-- ARGV   [1] fixed time in ms for tests, else ''   [2] '1' to commit, '0' to look, '2' to take whether it fits or not
--        [3] what is asked, packed: number of charges (byte), numbers about the offender (u16, 0: there is none);
--            per charge kind (byte: 0 window, 1 bucket, 2 lease), shadow (byte: 1 refuses nobody), quota, window_ms, cost,
--            burst (u32 each); about the offender strikes, knocks, threshold, decay_ms, forget_ms, apart_ms and the lengths
--            of the blocks (doubles); the holder of the leases
--        only if anything is to be read: [4] 'v' versions, 'e' the entry too   [5] lease_ms, 0 for none   [6] 8 random
--        bytes, for a version table that is not there   [7] the vector that the caller holds, else ''
--        [8] the buckets of the tags (u32 each)
-- reply  the decision, packed: allowed (byte), now_ms (i64); per charge fits (byte), used, remaining (u32), retry_after_ms,
--        renew_ms, reset_ms (i64); if there is an offender blocked_ms, strikes, level (i64)
--        if something was to be read and all is allowed, instead {the decision, state, vector, ms, value, fresh_ms}
--        retry_after_ms is -1 when the cost exceeds the quota
--        state: 0 hit (ms: the entry's life) · 1 the held vector is current · 2 the lease is the caller's
--               3 somebody else has it (ms: for how long) · 4 nothing · 5 stale (ms: the entry's life) · 6 stale, and the
--               lease is the caller's
-- cost   O(N + tags): a window one GET and at most one SET, plus the counters that ran out since the last write (at most
--        61); a bucket one GET and SET; a lease one ZCOUNT, ZADD and ZREMRANGEBYSCORE; the offender one HMGET, and HSET and
--        PEXPIRE when it is struck; per tag one GETRANGE, and one more per tag of a found entry
--
-- A cache lease holds the vector that its load is for. One for another vector binds nobody: what it loads will be refused.
-- A limiter's lease: a sorted set of holders by the moment at which they lose it.
-- Numbers are packed because each one of its own costs an object here, on the wire, and in the client.
-- `now` in ms and `micros`: the server's time, or ARGV[1] (ms) when a test fixed it.
local now, micros
if ARGV[1] == '' then
  local time = redis.call('TIME')
  micros = time[1] * 1000000 + time[2]
  now = math.floor(micros / 1000)
else
  now = tonumber(ARGV[1])
  micros = now * 1000
end

-- Numbers of this size lose digits when Lua writes them itself.
local function whole(number)
  return string.format('%.0f', number)
end

-- A sliding window as one string: version 1 (byte), newest counter's index (double), window_ms (double), total (u32),
-- then 61 counters (u32); the counter with index b sits in place b % 61. Unknown versions and other window lengths
-- count as empty; a string of version 1 with another length is damaged, and said to be.
local unpack_bytes, pack_bytes, sub = struct.unpack, struct.pack, string.sub
local ceil, floor, max = math.ceil, math.floor, math.max
local VERSION, HEADER = 1, '>BddI4'
local FIRST, LENGTH = 22, 265 -- the header's 21 bytes; they and 61 times 4

local function opens_at(counter, window)
  return ceil(counter * window / 60)
end

local function place(counter)
  return FIRST + (counter % 61) * 4
end

local function with(ring, at, units)
  return sub(ring, 1, at - 1) .. pack_bytes('>I4', units) .. sub(ring, at + 4)
end

local function read(ring, window)
  if not ring or string.byte(ring) ~= VERSION then return nil end
  if #ring ~= LENGTH then error('a window has ' .. #ring .. ' bytes, expected ' .. LENGTH) end
  local _, newest, stored_window, total = unpack_bytes(HEADER, ring)
  if stored_window ~= window then return nil end
  return newest, total
end

-- Returns the string with what ran out set to zero, the newest and the current counter's index, and the total.
local function advance(ring, window)
  local current = floor(now * 60 / window)
  local newest, total = read(ring, window)
  -- A clock set back by more than a window, or forward past it, leaves nothing to count.
  if not newest or current - newest >= 61 or newest - current >= 61 then return nil, current, current, 0 end
  for counter = newest - 60, current - 61 do
    local at = place(counter)
    local units = unpack_bytes('>I4', ring, at)
    if units > 0 then
      total = total - units
      ring = with(ring, at, 0)
    end
  end
  return ring, newest, max(current, newest), total
end

local function keep(key, ring, newest, window, total)
  ring = pack_bytes(HEADER, VERSION, newest, window, total) .. sub(ring, FIRST)
  redis.call('SET', key, ring, 'PX', max(1, opens_at(newest + 61, window) - now))
  return ring
end

-- Adds to one counter of an advanced string. Between the newest and the current counter lie only places that are zero.
local function add(ring, counter, units)
  ring = ring or string.rep('\0', LENGTH)
  local at = place(counter)
  return with(ring, at, unpack_bytes('>I4', ring, at) + units)
end

-- When `units` of those counted have left the window.
local function freed_at(ring, newest, window, units)
  for counter = newest - 60, newest do
    units = units - unpack_bytes('>I4', ring, place(counter))
    if units <= 0 then return opens_at(counter + 61, window) end
  end
end

-- Returns where an advanced window stands: fits, used, remaining, retry_after_ms, renew_ms, reset_ms.
local function stand_of_window(c)
  if c.total == 0 then return c.fits, 0, c.quota, c.fits and 0 or -1, 0, 0 end
  local remaining, reset = c.quota - c.total, opens_at(c.newest + 61, c.window) - now
  if c.fits and remaining > 0 then return true, c.total, remaining, 0, 0, reset end
  local retry, renew = 0, 0
  if not c.fits then
    if c.cost > c.quota then retry = -1
    else retry = freed_at(c.ring, c.newest, c.window, c.total + c.cost - c.quota) - now end
  end
  if remaining <= 0 and c.quota > 0 then renew = freed_at(c.ring, c.newest, c.window, 1 - remaining) - now end
  return c.fits, c.total, max(0, remaining), retry, renew, reset
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
  redis.call('SET', key, struct.pack(BUCKET, BUCKET_VERSION, c.full), 'PX', math.max(1, math.ceil((c.full - micros) / 1000)))
end

-- An offender: a hash of c (when no strike is left, ms), u (end of the last block, ms), l (blocks when it was imposed) and
-- t (when a decision struck last, ms; missing: never).

local function offender_of(key, decay, forget)
  local found = redis.call('HMGET', key, 'c', 'u', 'l', 't')
  local o = {key = key, decay = decay, forget = forget, clear = now, ends = 0, level = 0, last = 0, struck = 0}
  if not (found[1] or found[2]) then return o end -- most callers never offended
  o.clear, o.ends = math.max(now, tonumber(found[1]) or 0), tonumber(found[2]) or 0
  o.level, o.struck = tonumber(found[3]) or 0, tonumber(found[4]) or 0
  o.last = o.level -- as it was when the last block ended; what is left of it follows from the time since
  if o.ends <= now then o.level = math.max(0, o.last - math.floor((now - o.ends) / forget)) end
  return o
end

-- Counts strikes of one who is not shut out. `block_of(level)` says how long a block is that follows so many others.
local function strike(o, strikes, threshold, block_of)
  o.clear = o.clear + strikes * o.decay
  if math.ceil((o.clear - now) / o.decay) >= threshold then
    o.ends = now + block_of(o.level)
    o.clear, o.level = now, o.level + 1
    o.last = o.level
  end
end

local function keep_offender(o)
  redis.call('HSET', o.key, 'c', whole(o.clear), 'u', whole(o.ends), 'l', o.last)
  if o.struck > 0 then redis.call('HSET', o.key, 't', whole(o.struck)) end
  redis.call('PEXPIRE', o.key, whole(math.max(1, o.clear - now, o.ends + o.forget * o.last - now)))
end

-- Returns blocked_ms, strikes, level.
local function stand_of_offender(o)
  return math.max(0, o.ends - now), math.ceil((o.clear - now) / o.decay), o.level
end

local WINDOW, BUCKET_KIND, LEASE_RETRY = 0, 1, 1000
local asked = ARGV[3]
local count, numbers, at = unpack_bytes('>BH', asked)
local is_forced, is_look = ARGV[2] == '2', ARGV[2] == '0'
local about = at + count * 18
local first_cache_key = count + (numbers > 0 and 2 or 1)

local function in_cache(what, ...)
-- The version table: epoch (8 bytes), number of the last change (u64), then 65536 versions (u32: 24 bits hard, 8 bits soft).
-- Its owner is the namespace's cache: it has no expiry and a fixed size. When it was lost, a new epoch makes all older
-- entries stale.
-- Each change is published under the table's own name: the epoch after it, its number, the epoch before it (zeros: there was
-- no table), then bucket and version (u32 each) of what moved. Whoever has heard all numbers has the table.
local HEAD_BYTES, TABLE_BYTES = 16, 16 + 65536 * 4

-- Says whether the table is there. Call it before anything is written: something else under its name is an error.
local function has_table(key)
  local size = redis.call('STRLEN', key)
  if size ~= 0 and size ~= TABLE_BYTES then error('the version table has ' .. size .. ' bytes, expected ' .. TABLE_BYTES) end
  return size ~= 0
end

-- Whoever may not publish may not subscribe either, and asks with each read; so a refusal is no error.
local function publish(key, epoch, number, before, moved)
  local message = epoch .. struct.pack('>I8', number) .. before .. moved
  redis.pcall('PUBLISH', key, message)
  return message
end

-- Returns the epoch; a table that is not there is made, with `seed` for its epoch, and that is published.
local function epoch_of(key, seed)
  if has_table(key) then return redis.call('GETRANGE', key, 0, 7) end
  redis.call('SETRANGE', key, TABLE_BYTES - 1, '\0')
  redis.call('SETRANGE', key, 0, seed)
  publish(key, seed, 0, string.rep('\0', 8), '')
  return seed
end

local function version_of(key, bucket)
  local at = HEAD_BYTES + bucket * 4
  return redis.call('GETRANGE', key, at, at + 3)
end

-- Returns the epoch and the versions of the packed buckets (u32 each).
local function vector_of(key, epoch, buckets)
  local parts = {epoch}
  for at = 1, #buckets, 4 do parts[#parts + 1] = version_of(key, (struct.unpack('>I4', buckets, at))) end
  return table.concat(parts)
end

-- What happened to something built on the vector `old`: nil hard, 'soft', or 'same'.
local function difference(old, new)
  if old == new then return 'same' end
  if #old ~= #new or string.sub(old, 1, 8) ~= string.sub(new, 1, 8) then return nil end
  for at = 9, #old, 4 do
    if string.sub(old, at, at + 2) ~= string.sub(new, at, at + 2) then return nil end
  end
  return 'soft'
end

-- Returns the value, what happened to it, and for how long before its end it is stale. Something that does not add up, or is
-- of another version, is no entry.
local function open_entry(entry, versions, vector, buckets)
  if type(entry) ~= 'string' or #entry < 18 or string.byte(entry) ~= 2 then return nil end
  local first = 15 + string.byte(entry, 2) * 4
  local at = 2 * first - 15
  if #entry < at + 3 or struct.unpack('>I4', entry, at) ~= #entry - at - 3 then return nil end
  local own = string.sub(entry, first, at - 1)
  -- An entry is mostly read with the tags that it was stored with, and their versions have just been looked up.
  local now_at = own == buckets and vector or vector_of(versions, string.sub(vector, 1, 8), own)
  local what = difference(string.sub(entry, 7, first - 1), now_at)
  if what then return string.sub(entry, at + 4), what, (struct.unpack('>I4', entry, 3)) end
end

-- Appends to the reply: state, vector, ms, value, fresh_ms. The keys from `first_key` on are the version table, the entry and
-- its lease; ARGV[4] to ARGV[7] say what to read, and ARGV[first_tag] has the packed buckets of the tags.
local function read_cache(reply, first_key, first_tag)
  local versions, key, lease = KEYS[first_key], KEYS[first_key + 1], KEYS[first_key + 2]
  local buckets = ARGV[first_tag] or ''
  local vector = vector_of(versions, epoch_of(versions, ARGV[6]), buckets)
  local function answer(state, ms, value, fresh_ms)
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = state, vector, ms, value or '', fresh_ms or 0
    return reply
  end
  if ARGV[7] == vector then return answer(1, 0) end
  if ARGV[4] ~= 'e' then return answer(4, 0) end
  -- Something else under the entry's key is no entry; the next store replaces it.
  local value, what, stale_ms = open_entry(redis.pcall('GET', key), versions, vector, buckets)
  local left_ms = 0
  if value then
    left_ms = math.max(0, redis.call('PTTL', key))
    if what == 'same' and left_ms > stale_ms then return answer(0, left_ms, value, left_ms - stale_ms) end
  end
  local is_free = ARGV[5] ~= '0' and redis.pcall('GET', lease) ~= vector
  if is_free then redis.call('SET', lease, vector, 'PX', ARGV[5]) end
  if value then return answer(is_free and 6 or 5, left_ms, value) end
  if is_free then return answer(2, 0) end
  if ARGV[5] == '0' then return answer(4, 0) end
  return answer(3, math.max(1, redis.call('PTTL', lease)))
end

  if what == 'check' then return has_table(...) end
  return read_cache(...)
end
if ARGV[4] then in_cache('check', KEYS[first_cache_key]) end

local function open_lease(key, c)
  c.held = redis.call('ZCOUNT', key, '(' .. whole(now), '+inf')
  c.fits = c.held + c.cost <= c.quota
end

-- Everything is read before anything is written: a key that is something else fails the whole.
local offender, strikes, knocks, threshold, apart
if numbers > 0 then
  local decay, forget
  strikes, knocks, threshold, decay, forget, apart = unpack_bytes('>dddddd', asked, about)
  offender = offender_of(KEYS[count + 1], decay, forget)
end
local allowed = true
local charges = {}
for i = 1, count do
  local c, shadow = {}, nil
  c.kind, shadow, c.quota, c.window, c.cost, c.burst, at = unpack_bytes('>BBI4I4I4I4', asked, at)
  if c.kind == WINDOW then
    c.ring, c.newest, c.current, c.total = advance(redis.call('GET', KEYS[i]), c.window)
    c.fits = c.total + c.cost <= c.quota
  elseif c.kind == BUCKET_KIND then open_bucket(redis.call('GET', KEYS[i]), c)
  else open_lease(KEYS[i], c) end
  if not c.fits and shadow == 0 then allowed = false end
  charges[i] = c
end

if is_forced then allowed = true
elseif offender and (offender.ends > now or not allowed or knocks > 0) then
  local function struck_by(units)
    strike(offender, units, threshold, function(level)
      return (unpack_bytes('>d', asked, about + 8 * math.min(6 + level, numbers - 1)))
    end)
  end
  local is_news = false
  if offender.ends <= now and knocks > 0 and not is_look then
    struck_by(knocks)
    is_news = true
  end
  if offender.ends > now then allowed = false
  elseif not allowed and strikes > 0 and not is_look then
    local since = now - offender.struck
    if since >= apart or since < 0 then
      struck_by(strikes)
      offender.struck, is_news = now, true
    end
  end
  if is_news then keep_offender(offender) end
end

local function take(key, c)
  if c.kind == BUCKET_KIND then
    c.full = math.min(c.full + c.every * c.cost, micros + c.most)
    return keep_bucket(key, c)
  end
  local holder = sub(asked, about + numbers * 8)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
  for unit = 1, c.cost do redis.call('ZADD', key, whole(now + c.window), holder .. '#' .. unit) end
  redis.call('PEXPIRE', key, whole(max(c.window, redis.call('PTTL', key))))
  c.held = c.held + c.cost
end

local function take_from_window(key, c)
  local units = c.cost
  if c.total + units > 2147483647 then units = 2147483647 - c.total end
  c.total, c.newest = c.total + units, c.current
  local ring, at = c.ring, place(c.current)
  local head = pack_bytes(HEADER, VERSION, c.newest, c.window, c.total)
  if ring then
    ring = head .. sub(ring, FIRST, at - 1) .. pack_bytes('>I4', unpack_bytes('>I4', ring, at) + units) .. sub(ring, at + 4)
  else
    ring = head .. string.rep('\0', at - FIRST) .. pack_bytes('>I4', units) .. string.rep('\0', LENGTH - at - 3)
  end
  c.ring = ring
  redis.call('SET', key, ring, 'PX', max(1, opens_at(c.newest + 61, c.window) - now))
end

local function stand_of_bucket(c)
  local remaining = math.floor((micros + c.most - c.full) / c.every)
  local function wait(units)
    return max(0, ceil((c.full + c.every * units - c.most - micros) / 1000))
  end
  local retry = c.fits and 0 or (c.cost > c.burst and -1 or wait(c.cost))
  return c.fits, c.burst - remaining, remaining, retry, remaining > 0 and 0 or wait(1), ceil((c.full - micros) / 1000)
end

local function stand_of_lease(c)
  local remaining = max(0, c.quota - c.held)
  local retry = c.fits and 0 or (c.cost > c.quota and -1 or LEASE_RETRY)
  return c.fits, c.held, remaining, retry, remaining > 0 and 0 or LEASE_RETRY, c.held > 0 and LEASE_RETRY or 0
end

local function packed(fits, ...)
  return pack_bytes('>BI4I4i8i8i8', fits and 1 or 0, ...)
end

local told = pack_bytes('>Bi8', allowed and 1 or 0, now)
for i = 1, count do
  local c = charges[i]
  local is_taken = allowed and not is_look and c.cost > 0 and (c.fits or is_forced)
  if is_taken then c.fits = true end
  if c.kind == WINDOW then
    if is_taken then take_from_window(KEYS[i], c) end
    told = told .. packed(stand_of_window(c))
  else
    if is_taken then take(KEYS[i], c) end
    told = told .. packed((c.kind == BUCKET_KIND and stand_of_bucket or stand_of_lease)(c))
  end
end
if offender then told = told .. pack_bytes('>i8i8i8', stand_of_offender(offender)) end
if allowed and ARGV[4] then return in_cache('read', {told}, first_cache_key, 8) end
return told