-- Take from N buckets what was taken elsewhere while this server was away.
-- KEYS   the buckets
-- ARGV   [1] fixed time in ms for tests, else ''   then per bucket, in microseconds: owed (taken there and not flowed back),
--        left (until it is full there), most (an empty one)
-- reply  number of buckets
-- cost   O(N): one GET and SET each
--
-- It is never fuller than it was there, also when the server lost its data. Told twice, a bucket is emptier than it has to
-- be, by `owed` at most.
-- include clock
-- include bucket
for i = 1, #KEYS do
  local owed, left, most = tonumber(ARGV[i * 3 - 1]), tonumber(ARGV[i * 3]), tonumber(ARGV[i * 3 + 1])
  local c = {quota = 1, window = most / 1000, burst = 1, cost = 0}
  open_bucket(redis.pcall('GET', KEYS[i]), c)
  c.full = math.min(math.max(c.full + owed, micros + left), micros + most)
  keep_bucket(KEYS[i], c)
end
return #KEYS
