-- Give units back to N sliding windows, newest first, never below empty.
-- KEYS   one per charge, all different: the strings that spend.lua writes
-- ARGV   [1] fixed time in ms for tests, else ''   then per charge: window_ms, units
-- reply  1
-- cost   O(N): one GET and at most one SET each, and at most 61 counters
local VERSION, HEADER = 1, '>BddI4'
local FIRST = struct.size(HEADER) + 1

local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

for i = 1, #KEYS do
  local window, units = tonumber(ARGV[i * 2]), tonumber(ARGV[i * 2 + 1])
  local ring = redis.call('GET', KEYS[i])
  if ring and string.byte(ring) == VERSION then
    local _, newest, stored_window, total = struct.unpack(HEADER, ring)
    local current = math.floor(now * 60 / window)
    -- What ran out is left to the next spend; nothing that ran out is given back.
    local oldest = math.max(newest, current) - 60
    if stored_window == window then
      for counter = newest, math.max(oldest, newest - 60), -1 do
        local at = FIRST + (counter % 61) * 4
        local held = struct.unpack('>I4', ring, at)
        local part = math.min(held, units)
        if part > 0 then
          ring = string.sub(ring, 1, at - 1) .. struct.pack('>I4', held - part) .. string.sub(ring, at + 4)
          total, units, held = total - part, units - part, held - part
        end
        if held > 0 then
          newest = counter
          break
        end
      end
      if total == 0 then
        redis.call('DEL', KEYS[i])
      else
        ring = struct.pack(HEADER, VERSION, newest, window, total) .. string.sub(ring, FIRST)
        local ttl = math.max(1, math.ceil((newest + 61) * window / 60) - now)
        redis.call('SET', KEYS[i], ring, 'PX', string.format('%.0f', ttl))
      end
    end
  end
end
return 1
