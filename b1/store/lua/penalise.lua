-- Count offences of one caller, and shut it out when there are too many.
-- KEYS   [1] the offender
-- ARGV   [1] fixed time in ms for tests, else ''   [2] strikes   [3] '1' to forget what was before   [4] threshold
--        [5] decay_ms   [6] forget_ms   then the lengths of the blocks, ms
-- reply  {blocked_ms, strikes, level}
-- cost   O(1): one HMGET; HSET and PEXPIRE when something is counted
-- include clock
-- include offender
local strikes = tonumber(ARGV[2])
if ARGV[3] == '1' then redis.call('DEL', KEYS[1]) end
local o = offender_of(KEYS[1], tonumber(ARGV[5]), tonumber(ARGV[6]))
if strikes > 0 and o.ends <= now then
  strike(o, strikes, tonumber(ARGV[4]), function(level) return tonumber(ARGV[math.min(7 + level, #ARGV)]) end)
  keep_offender(o)
end
return {stand_of_offender(o)}
