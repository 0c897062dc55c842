-- Become the owner of a key, or learn who is.
-- KEYS   [1] the claim: a hash of p (fingerprint), f (fence), u (ends at, ms; 0 when released), r (record when finished)
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fingerprint   [3] lease_ms   [4] grace_ms
-- reply  {0, fence} claimed · {1, retry_after_ms} in flight · {2, record} finished · {3} other fingerprint
-- cost   O(1): one HMGET; three more writes when claimed
--
-- The fence is the server's time in microseconds, or one more than the last: it grows even after the key expired.
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

local found = redis.call('HMGET', KEYS[1], 'p', 'f', 'u', 'r')
local ends = tonumber(found[3]) or 0
if ends > now then
  if found[1] ~= ARGV[2] then return {3} end
  if found[4] then return {2, found[4]} end
  return {1, ends - now}
end
local fence = math.max(micros, (tonumber(found[2]) or 0) + 1)
local lease = tonumber(ARGV[3])
-- Only when there is something: a script that has written is no longer refused when the server is out of memory.
if found[2] then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'p', ARGV[2], 'f', whole(fence), 'u', whole(now + lease))
redis.call('PEXPIRE', KEYS[1], whole(lease + tonumber(ARGV[4])))
return {0, fence}