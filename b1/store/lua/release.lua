-- Give a claim up, if it is still the caller's, so that the next caller may run. The fence stays for the grace period.
-- KEYS   [1] the claim
-- ARGV   [1] fence   [2] grace_ms
-- reply  1 released · 0 lost
-- cost   O(1): one GET, one SET
-- include claim
local claim = held_claim(KEYS[1], ARGV[1])
if not claim then return 0 end
write_claim(KEYS[1], claim.fence, 0, claim.print, nil, tonumber(ARGV[2]))
return 1
