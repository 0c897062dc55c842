-- Take from N buckets what was taken elsewhere while this server was away.
-- KEYS   the buckets
-- ARGV   [1] fixed time in ms for tests, else ''   then per bucket, in microseconds: owed (taken there and not flowed back),
--        left (until it is full there), most (an empty one)
-- reply  number of buckets
-- cost   O(N): one GET and SET each
--
-- It is never fuller than it was there, also when the server lost its data. Told twice, a bucket is emptier than it has to
-- be, by `owed` at most.
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
  local owed, left, most = tonumber(ARGV[i * 3 - 1]), tonumber(ARGV[i * 3]), tonumber(ARGV[i * 3 + 1])
  local c = {quota = 1, window = most / 1000, burst = 1, cost = 0}
  open_bucket(redis.pcall('GET', KEYS[i]), c)
  c.full = math.min(math.max(c.full + owed, micros + left), micros + most)
  keep_bucket(KEYS[i], c)
end
return #KEYS