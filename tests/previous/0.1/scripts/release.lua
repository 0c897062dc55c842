-- Give a claim up, if it is still the caller's, so that the next caller may run. The fence stays for the grace period.
-- KEYS   [1] the claim, see claim.lua
-- ARGV   [1] fence   [2] grace_ms
-- reply  1 released · 0 lost
-- cost   O(1): one HMGET, one HSET, one PEXPIRE
local found = redis.call('HMGET', KEYS[1], 'f', 'u', 'r')
if found[1] ~= ARGV[1] or found[2] == '0' or found[3] then return 0 end
redis.call('HSET', KEYS[1], 'u', '0')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1