-- Keep a record that was made elsewhere while this server was away, unless the key has another owner or record here.
-- KEYS   [1] the claim, see claim.lua
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fingerprint   [3] fence of its claim here, 0 when there was none
--        [4] record   [5] ttl_ms
-- reply  1 kept · 0 not
-- cost   O(1): one HMGET; DEL, HSET and PEXPIRE when kept
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
local is_live = (tonumber(found[2]) or 0) > now
if is_live and (found[3] or found[1] ~= ARGV[3]) then return 0 end
local fence = math.max(micros, (tonumber(found[1]) or 0) + 1)
if found[1] then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'p', ARGV[2], 'f', whole(fence), 'u', whole(now + tonumber(ARGV[5])), 'r', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1