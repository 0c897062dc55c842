-- Replace a claim by its record, if it is still the caller's. A lease that ran out counts as the caller's until
-- somebody took it over or the key expired.
-- KEYS   [1] the claim, see claim.lua
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fence   [3] record   [4] ttl_ms
-- reply  1 written · 0 lost
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
local ttl = tonumber(ARGV[4])
redis.call('HSET', KEYS[1], 'r', ARGV[3], 'u', whole(now + ttl))
redis.call('PEXPIRE', KEYS[1], whole(ttl))
return 1