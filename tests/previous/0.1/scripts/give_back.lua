-- Give units back to N buckets and leases; windows have refund.lua.
-- KEYS   one per charge, all different
-- ARGV   [1] fixed time in ms for tests, else ''   [2] holder of the leases
--        then per charge: kind (b or l), quota, window_ms, units, burst
-- reply  1
-- cost   O(N): a bucket one GET and SET, a lease one ZREM
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

for i = 1, #KEYS do
  local first = 3 + (i - 1) * 5
  local units = tonumber(ARGV[first + 3])
  if ARGV[first] == 'l' then
    for unit = 1, units do redis.call('ZREM', KEYS[i], ARGV[2] .. '#' .. unit) end
  else
    local c = {quota = tonumber(ARGV[first + 1]), window = tonumber(ARGV[first + 2]), cost = units}
    c.burst = tonumber(ARGV[first + 4])
    open_bucket(redis.call('GET', KEYS[i]), c)
    if c.full > micros then
      c.full = c.full - c.every * units
      keep_bucket(KEYS[i], c)
    end
  end
end
return 1