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
