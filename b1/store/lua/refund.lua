-- Give units back to N sliding windows, newest first, never below empty.
-- KEYS   one per charge, all different
-- ARGV   [1] fixed time in ms for tests, else ''   then per charge: window_ms, units
-- reply  1
-- cost   O(N): one GET and at most one SET each, and at most 61 counters
-- include clock
-- include window
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
