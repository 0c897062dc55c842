-- Become the owner of a key, or learn who is.
-- KEYS   [1] the claim
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fingerprint   [3] lease_ms   [4] grace_ms   [5] the caller's name
-- reply  {0, fence} claimed · {1, retry_after_ms, fence, owner} in flight · {2, record} finished
--        {3, fingerprint} claimed with another one
-- cost   O(1): one GET; one SET when claimed
--
-- The fence is the server's time in microseconds, or one more than the last: it grows even after the key expired.
-- include clock
-- include claim
local claim = read_claim(KEYS[1])
if claim and claim.ends > now then
  if claim.print ~= ARGV[2] then return {3, claim.print} end
  if claim.record then return {2, claim.record} end
  return {1, claim.ends - now, claim.fence, claim.owner}
end
local fence = math.max(micros, (claim and claim.fence or 0) + 1)
local lease = tonumber(ARGV[3])
write_claim(KEYS[1], fence, now + lease, ARGV[2], nil, lease + tonumber(ARGV[4]), ARGV[5])
return {0, fence}
