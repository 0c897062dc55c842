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
-- include clock
-- include window
-- include balance
-- include bucket
-- include offender
local WINDOW, BUCKET_KIND, LEASE_RETRY = 0, 1, 1000
local asked = ARGV[3]
local count, numbers, at = unpack_bytes('>BH', asked)
local is_forced, is_look = ARGV[2] == '2', ARGV[2] == '0'
local about = at + count * 18
local first_cache_key = count + (numbers > 0 and 2 or 1)

local function in_cache(what, ...)
-- include versions
-- include entry
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
