-- Give units back to N buckets and leases; windows have refund.lua.
-- KEYS   one per charge, all different
-- ARGV   [1] fixed time in ms for tests, else ''   [2] holder of the leases
--        then per charge: kind (b or l), quota, window_ms, units, burst
-- reply  1
-- cost   O(N): a bucket one GET and SET, a lease one ZREM
-- include clock
-- include bucket
for i = 1, #KEYS do
  local first = 3 + (i - 1) * 5
  local units = tonumber(ARGV[first + 3])
  if ARGV[first] == 'l' then
    for unit = 1, units do redis.call('ZREM', KEYS[i], ARGV[2] .. '#' .. unit) end
  else
    local c = {quota = tonumber(ARGV[first + 1]), window = tonumber(ARGV[first + 2]), cost = units}
    c.burst = tonumber(ARGV[first + 4])
    open_bucket(redis.call('GET', KEYS[i]), c)
    if c.full > micros then
      c.full = c.full - c.every * units
      keep_bucket(KEYS[i], c)
    end
  end
end
return 1
