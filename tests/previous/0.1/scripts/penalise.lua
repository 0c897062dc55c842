-- Count offences of one caller, and shut it out when there are too many.
-- KEYS   [1] the offender
-- ARGV   [1] fixed time in ms for tests, else ''   [2] strikes   [3] '1' to forget what was before   [4] threshold
--        [5] decay_ms   [6] forget_ms   then the lengths of the blocks, ms
-- reply  {blocked_ms, strikes, level}
-- cost   O(1): one HMGET; HSET and PEXPIRE when something is counted
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

-- An offender: a hash of c (when no strike is left, ms), u (end of the last block, ms), l (blocks when it was imposed) and
-- t (when a decision struck last, ms; missing: never).

local function offender_of(key, decay, forget)
  local found = redis.call('HMGET', key, 'c', 'u', 'l', 't')
  local o = {key = key, decay = decay, forget = forget, clear = now, ends = 0, level = 0, last = 0, struck = 0}
  if not (found[1] or found[2]) then return o end -- most callers never offended
  o.clear, o.ends = math.max(now, tonumber(found[1]) or 0), tonumber(found[2]) or 0
  o.level, o.struck = tonumber(found[3]) or 0, tonumber(found[4]) or 0
  o.last = o.level -- as it was when the last block ended; what is left of it follows from the time since
  if o.ends <= now then o.level = math.max(0, o.last - math.floor((now - o.ends) / forget)) end
  return o
end

-- Counts strikes of one who is not shut out. `block_of(level)` says how long a block is that follows so many others.
local function strike(o, strikes, threshold, block_of)
  o.clear = o.clear + strikes * o.decay
  if math.ceil((o.clear - now) / o.decay) >= threshold then
    o.ends = now + block_of(o.level)
    o.clear, o.level = now, o.level + 1
    o.last = o.level
  end
end

local function keep_offender(o)
  redis.call('HSET', o.key, 'c', whole(o.clear), 'u', whole(o.ends), 'l', o.last)
  if o.struck > 0 then redis.call('HSET', o.key, 't', whole(o.struck)) end
  redis.call('PEXPIRE', o.key, whole(math.max(1, o.clear - now, o.ends + o.forget * o.last - now)))
end

-- Returns blocked_ms, strikes, level.
local function stand_of_offender(o)
  return math.max(0, o.ends - now), math.ceil((o.clear - now) / o.decay), o.level
end

local strikes = tonumber(ARGV[2])
if ARGV[3] == '1' then redis.call('DEL', KEYS[1]) end
local o = offender_of(KEYS[1], tonumber(ARGV[5]), tonumber(ARGV[6]))
if strikes > 0 and o.ends <= now then
  strike(o, strikes, tonumber(ARGV[4]), function(level) return tonumber(ARGV[math.min(7 + level, #ARGV)]) end)
  keep_offender(o)
end
return {stand_of_offender(o)}