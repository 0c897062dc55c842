-- Take from N sliding windows, all or nothing.
-- KEYS   one per charge, all different: one string each, see below
-- ARGV   [1] fixed time in ms for tests, else ''   [2] '1' to commit, '0' to look
--        then per charge: quota, window_ms, cost, shadow ('1' refuses nobody)
-- reply  {allowed, now_ms, then per charge: fits, used, remaining, retry_after_ms, renew_ms, reset_ms}
--        retry_after_ms is -1 when the cost exceeds the quota
-- cost   O(N): one GET and at most one SET each, plus the counters that ran out since the last write (at most 61)
--
-- The string: version 1 (byte), newest counter's index (double), window_ms (double), total (u32), then 61 counters (u32);
-- the counter with index b sits in place b % 61. Unknown versions and other window lengths count as empty.
local VERSION, HEADER, ZERO = 1, '>BddI4', '\0\0\0\0'
local FIRST = struct.size(HEADER) + 1

local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local function opens_at(counter, window)
  return math.ceil(counter * window / 60)
end

local function place(counter)
  return FIRST + (counter % 61) * 4
end

local function with(counters, at, units)
  return string.sub(counters, 1, at - 1) .. units .. string.sub(counters, at + 4)
end

-- Returns the string with what ran out set to zero, the newest and the current counter's index, and the total.
local function advance(ring, window)
  local current = math.floor(now * 60 / window)
  if not ring or string.byte(ring) ~= VERSION then return nil, current, current, 0 end
  local _, newest, stored_window, total = struct.unpack(HEADER, ring)
  -- A clock set back by more than a window, or forward past it, leaves nothing to count.
  if stored_window ~= window or math.abs(current - newest) >= 61 then return nil, current, current, 0 end
  for counter = newest - 60, current - 61 do
    local units = struct.unpack('>I4', ring, place(counter))
    if units > 0 then
      total = total - units
      ring = with(ring, place(counter), ZERO)
    end
  end
  return ring, newest, math.max(current, newest), total
end

-- When `units` of those counted have left the window.
local function freed_at(ring, newest, window, units)
  for counter = newest - 60, newest do
    units = units - struct.unpack('>I4', ring, place(counter))
    if units <= 0 then return opens_at(counter + 61, window) end
  end
end

local allowed = 1
local charges = {}
for i = 1, #KEYS do
  local first = 3 + (i - 1) * 4
  local charge = {
    quota = tonumber(ARGV[first]), window = tonumber(ARGV[first + 1]), cost = tonumber(ARGV[first + 2]),
  }
  charge.ring, charge.newest, charge.current, charge.total = advance(redis.call('GET', KEYS[i]), charge.window)
  charge.fits = charge.total + charge.cost <= charge.quota
  if not charge.fits and ARGV[first + 3] ~= '1' then allowed = 0 end
  charges[i] = charge
end

local reply = {allowed, now}
for i = 1, #KEYS do
  local c = charges[i]
  if allowed == 1 and ARGV[2] == '1' and c.fits and c.cost > 0 then
    local ring = c.ring or string.rep('\0', FIRST - 1 + 244)
    local at = place(c.current)
    -- Between the newest and the current counter lie only places that ran out and were set to zero above.
    ring = with(ring, at, struct.pack('>I4', struct.unpack('>I4', ring, at) + c.cost))
    c.total, c.newest = c.total + c.cost, c.current
    c.ring = struct.pack(HEADER, VERSION, c.newest, c.window, c.total) .. string.sub(ring, FIRST)
    local ttl = math.max(1, opens_at(c.newest + 61, c.window) - now)
    redis.call('SET', KEYS[i], c.ring, 'PX', string.format('%.0f', ttl))
  end
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
return reply
