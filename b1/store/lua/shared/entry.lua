local function value_of(entry, versions, epoch)
  if type(entry) ~= 'string' or #entry < 14 or string.byte(entry) ~= 1 then return nil end
  local tags = string.byte(entry, 2)
  local at = 11 + tags * 8
  if #entry < at + 3 or struct.unpack('>I4', entry, at) ~= #entry - at - 3 then return nil end
  if string.sub(entry, 3, 10) ~= epoch then return nil end
  for first = 11, at - 8, 8 do
    local bucket = struct.unpack('>I4', entry, first)
    if version_of(versions, bucket) ~= string.sub(entry, first + 4, first + 7) then return nil end
  end
  return string.sub(entry, at + 4)
end

-- Appends to the reply: state, vector, ms, value. The keys from `first_key` on are the version table, the entry and its
-- lease; ARGV[4] to ARGV[7] say what to read, and the buckets of the tags stand from ARGV[first_tag] on.
local function read_cache(reply, first_key, first_tag)
  local versions, key, lease = KEYS[first_key], KEYS[first_key + 1], KEYS[first_key + 2]
  local epoch = epoch_of(versions, ARGV[6])
  local vector = vector_of(versions, epoch, first_tag, #ARGV)
  local function answer(state, ms, value)
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = state, vector, ms, value or ''
    return reply
  end
  if ARGV[7] == vector then return answer(1, 0) end
  if ARGV[4] ~= 'e' then return answer(4, 0) end
  -- Something else under the entry's key is no entry; the next store replaces it.
  local value = value_of(redis.pcall('GET', key), versions, epoch)
  if value then return answer(0, math.max(0, redis.call('PTTL', key)), value) end
  if ARGV[5] == '0' then return answer(4, 0) end
  if redis.pcall('GET', lease) == vector then return answer(3, math.max(1, redis.call('PTTL', lease))) end
  redis.call('SET', lease, vector, 'PX', ARGV[5])
  return answer(2, 0)
end
