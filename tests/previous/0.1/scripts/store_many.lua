-- Keep many loaded values, each unless something that it depends on was invalidated since its vector was taken; end leases.
-- KEYS   [1] the version table, then of each entry two: the entry, its lease
-- ARGV   [1] per entry, packed: 1 to keep the value or 0 to give up (byte), ttl_ms (i64), for how long before its end it is
--            stale, ms (u32), number of tags (byte), the buckets of the tags (u32 each), the vector: epoch and one version per
--            bucket   [2 …] the values
-- reply  per entry a character: '1' kept · '0' not
-- cost   O(entries + tags + values): one GETRANGE per tag that no earlier entry had; per entry one SET, one GET and DEL of the
--        lease
-- The version table: epoch (8 bytes), number of the last change (u64), then 65536 versions (u32: 24 bits hard, 8 bits soft).
-- Its owner is the namespace's cache: it has no expiry and a fixed size. When it was lost, a new epoch makes all older
-- entries stale.
-- Each change is published under the table's own name: the epoch after it, its number, the epoch before it (zeros: there was
-- no table), then bucket and version (u32 each) of what moved. Whoever has heard all numbers has the table.
local HEAD_BYTES, TABLE_BYTES = 16, 16 + 65536 * 4

-- Says whether the table is there. Call it before anything is written: something else under its name is an error.
local function has_table(key)
  local size = redis.call('STRLEN', key)
  if size ~= 0 and size ~= TABLE_BYTES then error('the version table has ' .. size .. ' bytes, expected ' .. TABLE_BYTES) end
  return size ~= 0
end

-- Whoever may not publish may not subscribe either, and asks with each read; so a refusal is no error.
local function publish(key, epoch, number, before, moved)
  local message = epoch .. struct.pack('>I8', number) .. before .. moved
  redis.pcall('PUBLISH', key, message)
  return message
end

-- Returns the epoch; a table that is not there is made, with `seed` for its epoch, and that is published.
local function epoch_of(key, seed)
  if has_table(key) then return redis.call('GETRANGE', key, 0, 7) end
  redis.call('SETRANGE', key, TABLE_BYTES - 1, '\0')
  redis.call('SETRANGE', key, 0, seed)
  publish(key, seed, 0, string.rep('\0', 8), '')
  return seed
end

local function version_of(key, bucket)
  local at = HEAD_BYTES + bucket * 4
  return redis.call('GETRANGE', key, at, at + 3)
end

-- Returns the epoch and the versions of the packed buckets (u32 each).
local function vector_of(key, epoch, buckets)
  local parts = {epoch}
  for at = 1, #buckets, 4 do parts[#parts + 1] = version_of(key, (struct.unpack('>I4', buckets, at))) end
  return table.concat(parts)
end

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