-- Make stale what depends on some tags, or everything, also what is being loaded.
-- KEYS   [1] the version table
-- ARGV   [1] 8 random bytes: the new epoch, and that of a table that is not there   [2] '1' for everything
--        then the buckets of the tags, all different
-- reply  1
-- cost   O(tags): one GETRANGE and one SETRANGE each
-- The version table: epoch (8 bytes), then 65536 versions (u32). Its owner is the namespace's cache: it has no expiry and
-- a fixed size. When it was lost, a new epoch makes all older entries stale.
local TABLE_BYTES = 8 + 65536 * 4

-- Says whether the table is there. Call it before anything is written: something else under its name is an error.
local function has_table(key)
  local size = redis.call('STRLEN', key)
  if size ~= 0 and size ~= TABLE_BYTES then error('the version table has ' .. size .. ' bytes, expected ' .. TABLE_BYTES) end
  return size ~= 0
end

-- Returns the epoch; a table that is not there is made, with `seed` for its epoch.
local function epoch_of(key, seed)
  if has_table(key) then return redis.call('GETRANGE', key, 0, 7) end
  redis.call('SETRANGE', key, TABLE_BYTES - 1, '\0')
  redis.call('SETRANGE', key, 0, seed)
  return seed
end

local function version_of(key, bucket)
  local at = 8 + bucket * 4
  return redis.call('GETRANGE', key, at, at + 3)
end

-- Returns the epoch and the versions of the buckets in ARGV[first] to ARGV[last].
local function vector_of(key, epoch, first, last)
  local parts = {epoch}
  for i = first, last do parts[#parts + 1] = version_of(key, tonumber(ARGV[i])) end
  return table.concat(parts)
end

if epoch_of(KEYS[1], ARGV[1]) == ARGV[1] then return 1 end
if ARGV[2] == '1' then redis.call('SETRANGE', KEYS[1], 0, ARGV[1]) end
for i = 3, #ARGV do
  local bucket = tonumber(ARGV[i])
  local version = (struct.unpack('>I4', version_of(KEYS[1], bucket)) + 1) % 4294967296
  redis.call('SETRANGE', KEYS[1], 8 + bucket * 4, struct.pack('>I4', version))
end
return 1