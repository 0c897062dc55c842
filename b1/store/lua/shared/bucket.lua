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
