-- Keep a record that was made elsewhere while this server was away, unless the key has another owner or record here.
-- KEYS   [1] the claim
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fingerprint   [3] fence of its claim here, 0 when there was none
--        [4] record   [5] ttl_ms
-- reply  1 kept · 0 not
-- cost   O(1): one GET; one SET when kept
-- include clock
-- include claim
local claim = read_claim(KEYS[1])
if claim and claim.ends > now and (claim.record or claim.fence ~= tonumber(ARGV[3])) then return 0 end
local fence = math.max(micros, (claim and claim.fence or 0) + 1)
local ttl = tonumber(ARGV[5])
write_claim(KEYS[1], fence, now + ttl, ARGV[2], ARGV[4], ttl)
return 1
