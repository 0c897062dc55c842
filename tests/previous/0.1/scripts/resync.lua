-- Read the whole version table; make it if it is not there.
-- KEYS   [1] the version table
-- ARGV   [1] 8 random bytes: the epoch of a table that is not there, or has lost changes   [2] the epoch that the caller
--        knows   [3] the number of the last change that it knows, as a decimal; beyond it, the table lost some
-- reply  the table: see shared/versions.lua
-- cost   O(1): one GET of 262160 bytes
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

local epoch = epoch_of(KEYS[1], ARGV[1])
if epoch == ARGV[2] and struct.unpack('>I8', redis.call('GETRANGE', KEYS[1], 8, 15)) < tonumber(ARGV[3]) then
  -- A replica that had not heard of them took over, or an old copy was loaded: what they invalidated would be served.
  redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
  publish(KEYS[1], ARGV[1], 0, string.rep('\0', 8), '')
end
return redis.call('GET', KEYS[1])