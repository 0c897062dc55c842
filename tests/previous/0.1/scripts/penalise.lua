-- Count offences of one caller, and shut it out when there are too many.
-- KEYS   [1] the offender: a hash of c (when no strike is left, ms), u (end of the last block, ms), l (blocks so far)
-- ARGV   [1] fixed time in ms for tests, else ''   [2] strikes   [3] '1' to forget what was before   [4] threshold
--        [5] decay_ms   [6] forget_ms   then the lengths of the blocks, ms
-- reply  {blocked_ms, strikes, level}
-- cost   O(1): one HMGET; HSET and PEXPIRE when something is counted
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

local strikes, decay, forget = tonumber(ARGV[2]), tonumber(ARGV[5]), tonumber(ARGV[6])
if ARGV[3] == '1' then redis.call('DEL', KEYS[1]) end
local found = redis.call('HMGET', KEYS[1], 'c', 'u', 'l')
local clear, ends, level = math.max(now, tonumber(found[1]) or 0), tonumber(found[2]) or 0, tonumber(found[3]) or 0
if ends <= now then
  local last = level -- as it was when the last block ended; what is left of it follows from the time since
  level = math.max(0, last - math.floor((now - ends) / forget))
  if strikes > 0 then
    clear = clear + strikes * decay
    if math.ceil((clear - now) / decay) >= tonumber(ARGV[4]) then
      ends = now + tonumber(ARGV[7 + math.min(level, #ARGV - 7)])
      clear, level, last = now, level + 1, level + 1
    end
    redis.call('HSET', KEYS[1], 'c', whole(clear), 'u', whole(ends), 'l', last)
    redis.call('PEXPIRE', KEYS[1], whole(math.max(1, clear - now, ends + forget * last - now)))
  end
end
return {math.max(0, ends - now), math.ceil((clear - now) / decay), level}