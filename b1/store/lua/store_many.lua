-- Keep many loaded values, each unless something that it depends on was invalidated since its vector was taken; end leases.
-- KEYS   [1] the version table, then of each entry two: the entry, its lease
-- ARGV   [1] per entry, packed: 1 to keep the value or 0 to give up (byte), ttl_ms (i64), for how long before its end it is
--            stale, ms (u32), number of tags (byte), the buckets of the tags (u32 each), the vector: epoch and one version per
--            bucket   [2 …] the values
-- reply  per entry a character: '1' kept · '0' not
-- cost   O(entries + tags + values): one GETRANGE per tag that no earlier entry had; per entry one SET, one GET and DEL of the
--        lease
-- include versions
local versions = KEYS[1]
local is_there = has_table(versions)
local epoch = redis.call('GETRANGE', versions, 0, 7)
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

local function store(is_value, ttl_ms, stale_ms, buckets, vector, key, lease, value)
  if redis.pcall('GET', lease) == vector then redis.call('DEL', lease) end
  if is_value ~= 1 or not is_there or vector_here(buckets) ~= vector then return '0' end
  local head = struct.pack('>BBI4', 2, #buckets / 4, stale_ms)
  local entry = head .. vector .. buckets .. struct.pack('>I4', #value) .. value
  redis.call('SET', key, entry, 'PX', string.format('%.0f', ttl_ms))
  return '1'
end

local reply, asked, at = {}, ARGV[1], 1
for n = 2, #KEYS, 2 do
  local is_value, ttl_ms, stale_ms, tags, buckets_at = struct.unpack('>Bi8I4B', asked, at)
  local vector_at = buckets_at + tags * 4
  at = vector_at + 8 + tags * 4
  local buckets, vector = string.sub(asked, buckets_at, vector_at - 1), string.sub(asked, vector_at, at - 1)
  reply[n / 2] = store(is_value, ttl_ms, stale_ms, buckets, vector, KEYS[n], KEYS[n + 1], ARGV[n / 2 + 1])
end
return table.concat(reply)
