-- Give units back to N sliding windows, newest first, never below empty.
-- KEYS   one per charge, all different
-- ARGV   [1] fixed time in ms for tests, else ''   then per charge: window_ms, units
-- reply  1
-- cost   O(N): one GET and at most one SET each, and at most 61 counters
-- `now` in ms and `micros`: the server's time, or ARGV[1] (ms) when a test fixed it.
local now, micros
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
  micros = now * 1000
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  micros = time[1] * 1000000 + time[2]
end

-- Numbers of this size lose digits when Lua writes them itself.
local function whole(number)
  return string.format('%.0f', number)
end

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