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
