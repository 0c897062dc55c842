-- Replace a claim by its record, if it is still the caller's. A lease that ran out counts as the caller's until
-- somebody took it over or the key expired.
-- KEYS   [1] the claim
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fence   [3] record   [4] ttl_ms
-- reply  1 written · 0 lost
-- cost   O(1): one GET, one SET
-- include clock
-- include claim
local claim = held_claim(KEYS[1], ARGV[2])
if not claim then return 0 end
local ttl = tonumber(ARGV[4])
write_claim(KEYS[1], claim.fence, now + ttl, claim.print, ARGV[3], ttl)
return 1
