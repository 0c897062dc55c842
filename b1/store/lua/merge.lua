-- Add to N sliding windows what was counted elsewhere while this server was away, once.
-- KEYS   [1] a mark that this batch was applied   then the windows
-- ARGV   [1] fixed time in ms for tests, else ''   [2] how long the mark stays, ms; '' for a batch that may be repeated
--        then per window: window_ms, and its units packed, oldest first: age_ms, known, owed (u32 each)
-- reply  number of windows that could not be read; -1 when the batch was applied before
-- cost   O(N): one GET and at most one SET each, and at most 61 counters
--
-- Owed units are added. Known ones had been counted here before: the window's total is only raised to theirs, so they
-- count again when the server lost its data and are not doubled when it did not.
-- include clock
-- include window
if ARGV[2] ~= '' and not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then return -1 end
local unreadable = 0
for i = 2, #KEYS do
  local window, units = tonumber(ARGV[i * 2 - 1]), ARGV[i * 2]
  local found = redis.pcall('GET', KEYS[i])
  if type(found) == 'table' or (found and string.byte(found) == VERSION and #found ~= LENGTH) then
    unreadable = unreadable + 1
  else
    local ring, newest, current, total = advance(found, window)
    if not ring then newest = -1 end
    local missing, added = -total, 0
    for at = 1, #units, 12 do missing = missing + struct.unpack('>I4', units, at + 4) end
    for at = #units - 11, 1, -12 do
      local age, known, owed = struct.unpack('>I4I4I4', units, at)
      local counter = math.min(current, math.floor((now - age) * 60 / window))
      local part = owed + math.max(0, math.min(known, missing))
      missing = missing - known
      if part > 0 and counter >= current - 60 then
        ring = add(ring, counter, part)
        newest, added = math.max(newest, counter), added + part
      end
    end
    if added > 0 then keep(KEYS[i], ring, newest, window, total + added) end
  end
end
return unreadable
