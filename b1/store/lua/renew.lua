-- Prolong the lease of a claim, if it is still the caller's.
-- KEYS   [1] the claim
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fence   [3] lease_ms   [4] grace_ms
-- reply  1 prolonged · 0 lost
-- cost   O(1): one GET, one SET
-- include clock
-- include claim
local claim = held_claim(KEYS[1], ARGV[2])
if not claim then return 0 end
local lease = tonumber(ARGV[3])
write_claim(KEYS[1], claim.fence, now + lease, claim.print, nil, lease + tonumber(ARGV[4]), claim.owner)
return 1
