-- Take from N sliding windows, all or nothing; if they allow it, read one cache entry and the versions of its tags.
-- KEYS   one window per charge, all different   then, if anything is to be read: the version table, the entry, its lease
-- ARGV   [1] fixed time in ms for tests, else ''   [2] '1' to commit, '0' to look   [3] number of charges
--        [4] what to read: '' nothing, 'v' versions, 'e' the entry too   [5] lease_ms, 0 for none
--        [6] 8 random bytes, for a version table that is not there   [7] the vector that the caller holds, else ''
--        then per charge: quota, window_ms, cost, shadow ('1' refuses nobody)   then the buckets of the tags
-- reply  {allowed, now_ms, then per charge: fits, used, remaining, retry_after_ms, renew_ms, reset_ms,
--         then, if something was read: state, vector, ms, value}
--        retry_after_ms is -1 when the cost exceeds the quota
--        state: 0 hit (ms: the entry's life) · 1 the held vector is current · 2 the lease is the caller's
--               3 somebody else has it (ms: for how long) · 4 nothing
-- cost   O(N + tags): per charge one GET and at most one SET, plus the counters that ran out since the last write (at
--        most 61); per tag one GETRANGE, and one more per tag of a found entry
--
-- An entry: version 1 (byte), number of tags (byte), epoch (8 bytes), per tag its bucket (u32) and version (u32), length
-- of the value (u32), value. An entry that does not add up is none.
-- A lease holds the vector that its load is for. One for another vector binds nobody: what it loads will be refused.
-- include clock
-- include window
-- include balance
-- include versions
-- include entry

local count = tonumber(ARGV[3])
if ARGV[4] ~= '' then has_table(KEYS[count + 1]) end
local allowed = 1
local charges = {}
for i = 1, count do
  local first = 8 + (i - 1) * 4
  local charge = {
    quota = tonumber(ARGV[first]), window = tonumber(ARGV[first + 1]), cost = tonumber(ARGV[first + 2]),
  }
  charge.ring, charge.newest, charge.current, charge.total = advance(redis.call('GET', KEYS[i]), charge.window)
  charge.fits = charge.total + charge.cost <= charge.quota
  if not charge.fits and ARGV[first + 3] ~= '1' then allowed = 0 end
  charges[i] = charge
end

local reply = {allowed, now}
for i = 1, count do
  local c = charges[i]
  if allowed == 1 and ARGV[2] == '1' and c.fits and c.cost > 0 then
    c.total, c.newest = c.total + c.cost, c.current
    c.ring = keep(KEYS[i], add(c.ring, c.current, c.cost), c.newest, c.window, c.total)
  end
  tell_window(reply, c)
end
if allowed == 1 and ARGV[4] ~= '' then return read_cache(reply, count + 1, 8 + count * 4) end
return reply
