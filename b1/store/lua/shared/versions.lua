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
