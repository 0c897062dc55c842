-- Keep a loaded value unless something that it depends on was invalidated since its vector was taken; end its lease.
-- KEYS   [1] the version table   [2] the entry   [3] its lease
-- ARGV   [1] the vector: epoch and one version per bucket   [2] ttl_ms   [3] '1' to keep the value, '0' to give up
--        [4] the value   [5] for how long before its end it is stale, ms   [6] the packed buckets of the tags, in the
--        vector's order
-- reply  1 kept · 0 not
-- cost   O(tags + value): one GETRANGE per tag, one SET, one GET and DEL of the lease
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

local is_there = has_table(KEYS[1])
if redis.pcall('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
if ARGV[3] ~= '1' or not is_there then return 0 end
if vector_of(KEYS[1], redis.call('GETRANGE', KEYS[1], 0, 7), ARGV[6]) ~= ARGV[1] then return 0 end
local head = struct.pack('>BBI4', 2, #ARGV[6] / 4, tonumber(ARGV[5]))
redis.call('SET', KEYS[2], head .. ARGV[1] .. ARGV[6] .. struct.pack('>I4', #ARGV[4]) .. ARGV[4], 'PX', ARGV[2])
return 1