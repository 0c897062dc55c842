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

-- What happened to something built on the vector `old`: nil hard, 'soft', or 'same'.
local function difference(old, new)
  if old == new then return 'same' end
  if #old ~= #new or string.sub(old, 1, 8) ~= string.sub(new, 1, 8) then return nil end
  for at = 9, #old, 4 do
    if string.sub(old, at, at + 2) ~= string.sub(new, at, at + 2) then return nil end
  end
  return 'soft'
end

-- Returns the value, what happened to it, and for how long before its end it is stale. Something that does not add up, or is
-- of another version, is no entry.
local function open_entry(entry, versions, vector, buckets)
  if type(entry) ~= 'string' or #entry < 18 or string.byte(entry) ~= 2 then return nil end
  local first = 15 + string.byte(entry, 2) * 4
  local at = 2 * first - 15
  if #entry < at + 3 or struct.unpack('>I4', entry, at) ~= #entry - at - 3 then return nil end
  local own = string.sub(entry, first, at - 1)
  -- An entry is mostly read with the tags that it was stored with, and their versions have just been looked up.
  local now_at = own == buckets and vector or vector_of(versions, string.sub(vector, 1, 8), own)
  local what = difference(string.sub(entry, 7, first - 1), now_at)
  if what then return string.sub(entry, at + 4), what, (struct.unpack('>I4', entry, 3)) end
end

-- Appends to the reply: state, vector, ms, value, fresh_ms. The keys from `first_key` on are the version table, the entry and
-- its lease; ARGV[4] to ARGV[7] say what to read, and ARGV[first_tag] has the packed buckets of the tags.
local function read_cache(reply, first_key, first_tag)
  local versions, key, lease = KEYS[first_key], KEYS[first_key + 1], KEYS[first_key + 2]
  local buckets = ARGV[first_tag] or ''
  local vector = vector_of(versions, epoch_of(versions, ARGV[6]), buckets)
  local function answer(state, ms, value, fresh_ms)
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4], reply[n + 5] = state, vector, ms, value or '', fresh_ms or 0
    return reply
  end
  if ARGV[7] == vector then return answer(1, 0) end
  if ARGV[4] ~= 'e' then return answer(4, 0) end
  -- Something else under the entry's key is no entry; the next store replaces it.
  local value, what, stale_ms = open_entry(redis.pcall('GET', key), versions, vector, buckets)
  local left_ms = 0
  if value then
    left_ms = math.max(0, redis.call('PTTL', key))
    if what == 'same' and left_ms > stale_ms then return answer(0, left_ms, value, left_ms - stale_ms) end
  end
  local is_free = ARGV[5] ~= '0' and redis.pcall('GET', lease) ~= vector
  if is_free then redis.call('SET', lease, vector, 'PX', ARGV[5]) end
  if value then return answer(is_free and 6 or 5, left_ms, value) end
  if is_free then return answer(2, 0) end
  if ARGV[5] == '0' then return answer(4, 0) end
  return answer(3, math.max(1, redis.call('PTTL', lease)))
end

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