-- Give units back to N sliding windows, newest first, never below empty.
-- KEYS   one per charge, all different
-- ARGV   [1] fixed time in ms for tests, else ''   then per charge: window_ms, units
-- reply  1
-- cost   O(N): one GET and at most one SET each, and at most 61 counters
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

for i = 1, #KEYS do
  local window, units = tonumber(ARGV[i * 2]), tonumber(ARGV[i * 2 + 1])
  local ring = redis.call('GET', KEYS[i])
  local newest, total = read(ring, window)
  if newest then
    -- What ran out is left to the next spend; nothing that ran out is given back.
    local oldest = math.max(newest, math.floor(now * 60 / window)) - 60
    for counter = newest, math.max(oldest, newest - 60), -1 do
      local held = struct.unpack('>I4', ring, place(counter))
      local part = math.min(held, units)
      if part > 0 then
        ring = with(ring, place(counter), held - part)
        total, units, held = total - part, units - part, held - part
      end
      if held > 0 then
        newest = counter
        break
      end
    end
    if total == 0 then redis.call('DEL', KEYS[i]) else keep(KEYS[i], ring, newest, window, total) end
  end
end
return 1