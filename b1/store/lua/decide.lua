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
-- include clock
-- include window
-- include balance
-- include bucket
-- include offender
-- include versions
-- include entry
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
