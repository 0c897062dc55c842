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
