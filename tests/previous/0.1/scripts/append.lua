-- Add to the end of a replay ring.
-- KEYS   [1] the ring: a stream with ids `n-0` and one field each   [2] its sums: a hash of b (bytes of data held) and
--        d (nothing with this id or an older one is held)
-- ARGV   [1] fixed time in ms for tests, else ''   [2] data   [3] entries to keep   [4] bytes to keep   [5] ttl_ms
--        [6] 0, or the id that the entry got elsewhere while this server was away
-- reply  the id: the server's time in microseconds, or one more than the last, so that it grows also after a loss; one
--        from elsewhere is kept where that is possible, and an entry that is here already is not added again
-- cost   O(1) and O(1) per entry dropped
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

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
last = last and tonumber(string.match(last[1], '%d+')) or 0
local sums = redis.call('HMGET', KEYS[2], 'b', 'd')
local given = tonumber(ARGV[6])
local id = math.max(given > 0 and given or micros, last + 1)
if given > 0 and last >= given and redis.call('XRANGE', KEYS[1], whole(given), whole(given))[1] then return given end
local bytes, dropped = tonumber(sums[1]), tonumber(sums[2])
if last == 0 or not bytes then
  -- A ring without its sums is as good as lost.
  redis.call('DEL', KEYS[1])
  bytes, dropped = 0, id - 1
end
redis.call('XADD', KEYS[1], whole(id) .. '-0', 'd', ARGV[2])
bytes = bytes + #ARGV[2]
local count = redis.call('XLEN', KEYS[1])
while count > 1 and (count > tonumber(ARGV[3]) or bytes > tonumber(ARGV[4])) do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  redis.call('XDEL', KEYS[1], oldest[1])
  bytes, dropped, count = bytes - #oldest[2][2], tonumber(string.match(oldest[1], '%d+')), count - 1
end
redis.call('HSET', KEYS[2], 'b', whole(bytes), 'd', whole(dropped))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return id