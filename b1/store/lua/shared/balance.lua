-- When `units` of those counted have left the window.
local function freed_at(ring, newest, window, units)
  for counter = newest - 60, newest do
    units = units - unpack_bytes('>I4', ring, place(counter))
    if units <= 0 then return opens_at(counter + 61, window) end
  end
end

-- Returns where an advanced window stands: fits, used, remaining, retry_after_ms, renew_ms, reset_ms.
local function stand_of_window(c)
  if c.total == 0 then return c.fits, 0, c.quota, c.fits and 0 or -1, 0, 0 end
  local remaining, reset = c.quota - c.total, opens_at(c.newest + 61, c.window) - now
  if c.fits and remaining > 0 then return true, c.total, remaining, 0, 0, reset end
  local retry, renew = 0, 0
  if not c.fits then
    if c.cost > c.quota then retry = -1
    else retry = freed_at(c.ring, c.newest, c.window, c.total + c.cost - c.quota) - now end
  end
  if remaining <= 0 and c.quota > 0 then renew = freed_at(c.ring, c.newest, c.window, 1 - remaining) - now end
  return c.fits, c.total, max(0, remaining), retry, renew, reset
end
