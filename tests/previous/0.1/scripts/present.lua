-- Say that this process shares the server, and learn how many do.
-- KEYS   [1] a sorted set of processes by the moment at which they count as gone
-- ARGV   [1] fixed time in ms for tests, else ''   [2] name of the process   [3] for how long it counts, ms; '0' when it leaves
-- reply  how many count now
-- cost   O(log(processes))
-- `now` in ms and `micros`: the server's time, or ARGV[1] (ms) when a test fixed it.
local now, micros
if ARGV[1] == '' then
  local time = redis.call('TIME')
  micros = time[1] * 1000000 + time[2]
  now = math.floor(micros / 1000)
else
  now = tonumber(ARGV[1])
  micros = now * 1000
end

-- Numbers of this size lose digits when Lua writes them itself.
local function whole(number)
  return string.format('%.0f', number)
end

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
if ARGV[3] == '0' then redis.call('ZREM', KEYS[1], ARGV[2])
else
  redis.call('ZADD', KEYS[1], whole(now + tonumber(ARGV[3])), ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('ZCARD', KEYS[1])