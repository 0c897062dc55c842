-- Prolong the lease of a claim, if it is still the caller's.
-- KEYS   [1] the claim, see claim.lua
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fence   [3] lease_ms   [4] grace_ms
-- reply  1 prolonged · 0 lost
-- cost   O(1): one HMGET, one HSET, one PEXPIRE
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

local found = redis.call('HMGET', KEYS[1], 'f', 'u', 'r')
if found[1] ~= ARGV[2] or found[2] == '0' or found[3] then return 0 end
local lease = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'u', whole(now + lease))
redis.call('PEXPIRE', KEYS[1], whole(lease + tonumber(ARGV[4])))
return 1