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
