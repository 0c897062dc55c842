-- Read many cache entries, and take the leases to load those that are not there.
-- KEYS   [1] the version table, then of each entry two: the entry, its lease
-- ARGV   [1] 8 random bytes, for a version table that is not there   [2] how many bytes of values are answered at most
--        [3] per entry, packed: 'v' versions or 'e' the entry too (byte), lease_ms (u32, 0 for none), number of tags (byte),
--            length of the vector that the caller holds (u16), the buckets of the tags (u32 each), that vector
-- reply  two per entry: {what was found, the value}. What was found, packed: state (byte), ms, fresh_ms (i64 each), the vector
--        state and ms as in enter.lua. Once the values are too many bytes the list ends: what is missing was not looked at,
--        and no lease was taken. The first entry is always answered
-- cost   O(entries + tags): per entry one GET and PTTL, one GETRANGE per tag that no earlier entry had; per miss one GET and
--        SET of the lease
-- include versions
-- include entry
local versions, most = KEYS[1], tonumber(ARGV[2])
local epoch = epoch_of(versions, ARGV[1])
local known = {}

local function vector_here(buckets)
  local parts = {epoch}
  for at = 1, #buckets, 4 do
    local bucket = string.sub(buckets, at, at + 3)
    local version = known[bucket]
    if not version then
      version = version_of(versions, (struct.unpack('>I4', bucket)))
      known[bucket] = version
    end
    parts[#parts + 1] = version
  end
  return table.concat(parts)
end

-- Returns state, ms, fresh_ms and the value.
local function read(kind, lease_ms, held, vector, buckets, key, lease)
  if held == vector then return 1, 0, 0, '' end
  if kind ~= 101 then return 4, 0, 0, '' end
  local value, what, stale_ms = open_entry(redis.pcall('GET', key), versions, vector, buckets)
  local left_ms = 0
  if value then
    left_ms = math.max(0, redis.call('PTTL', key))
    if what == 'same' and left_ms > stale_ms then return 0, left_ms, left_ms - stale_ms, value end
  end
  local is_free = lease_ms > 0 and redis.pcall('GET', lease) ~= vector
  if is_free then redis.call('SET', lease, vector, 'PX', lease_ms) end
  if value then return is_free and 6 or 5, left_ms, 0, value end
  if is_free then return 2, 0, 0, '' end
  if lease_ms == 0 then return 4, 0, 0, '' end
  return 3, math.max(1, redis.call('PTTL', lease)), 0, ''
end

local reply, asked, at, sum = {}, ARGV[3], 1, 0
for n = 2, #KEYS, 2 do
  if sum >= most then break end
  local kind, lease_ms, tags, held_bytes, buckets_at = struct.unpack('>BI4BI2', asked, at)
  local held_at = buckets_at + tags * 4
  local buckets = string.sub(asked, buckets_at, held_at - 1)
  at = held_at + held_bytes
  local vector = vector_here(buckets)
  local state, ms, fresh_ms, value = read(kind, lease_ms, string.sub(asked, held_at, at - 1), vector, buckets, KEYS[n], KEYS[n + 1])
  reply[n - 1], reply[n] = struct.pack('>Bi8i8', state, ms, fresh_ms) .. vector, value
  sum = sum + #value
end
return reply
