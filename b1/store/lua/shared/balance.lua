-- When `units` of those counted have left the window.
local function freed_at(ring, newest, window, units)
  for counter = newest - 60, newest do
    units = units - struct.unpack('>I4', ring, place(counter))
    if units <= 0 then return opens_at(counter + 61, window) end
  end
end

-- Appends to the reply where an advanced window stands: fits, used, remaining, retry_after_ms, renew_ms, reset_ms.
local function tell_window(reply, c)
  local remaining, retry, renew, reset = math.max(0, c.quota - c.total), 0, 0, 0
  if not c.fits then
    if c.cost > c.quota then retry = -1
    else retry = freed_at(c.ring, c.newest, c.window, c.total + c.cost - c.quota) - now end
  end
  if c.total > 0 then
    reset = opens_at(c.newest + 61, c.window) - now
    if remaining == 0 and c.quota > 0 then
      renew = freed_at(c.ring, c.newest, c.window, 1 + c.total - c.quota) - now
    end
  end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = c.fits and 1 or 0, c.total, remaining
  reply[n + 4], reply[n + 5], reply[n + 6] = retry, renew, reset
end
