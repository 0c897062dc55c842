-- Keep a loaded value unless something that it depends on was invalidated since its vector was taken; end its lease.
-- KEYS   [1] the version table   [2] the entry   [3] its lease
-- ARGV   [1] the vector: epoch and one version per bucket   [2] ttl_ms   [3] '1' to keep the value, '0' to give up
--        [4] the value   then the buckets of the tags, in the vector's order
-- reply  1 kept · 0 not
-- cost   O(tags + value): one GETRANGE per tag, one SET, one GET and DEL of the lease
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

local is_there = has_table(KEYS[1])
if redis.pcall('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
local epoch = string.sub(ARGV[1], 1, 8)
if ARGV[3] ~= '1' or not is_there then return 0 end
if vector_of(KEYS[1], redis.call('GETRANGE', KEYS[1], 0, 7), 5, #ARGV) ~= ARGV[1] then return 0 end
local parts = {struct.pack('BB', 1, #ARGV - 4), epoch}
for i = 5, #ARGV do
  local at = 9 + (i - 5) * 4
  parts[#parts + 1] = struct.pack('>I4', tonumber(ARGV[i])) .. string.sub(ARGV[1], at, at + 3)
end
parts[#parts + 1] = struct.pack('>I4', #ARGV[4]) .. ARGV[4]
redis.call('SET', KEYS[2], table.concat(parts), 'PX', ARGV[2])
return 1