-- An offender: a hash of c (when no strike is left, ms), u (end of the last block, ms), l (blocks when it was imposed) and
-- t (when a decision struck last, ms; missing: never).

local function offender_of(key, decay, forget)
  local found = redis.call('HMGET', key, 'c', 'u', 'l', 't')
  local o = {key = key, decay = decay, forget = forget, clear = now, ends = 0, level = 0, last = 0, struck = 0}
  if not (found[1] or found[2]) then return o end -- most callers never offended
  o.clear, o.ends = math.max(now, tonumber(found[1]) or 0), tonumber(found[2]) or 0
  o.level, o.struck = tonumber(found[3]) or 0, tonumber(found[4]) or 0
  o.last = o.level -- as it was when the last block ended; what is left of it follows from the time since
  if o.ends <= now then o.level = math.max(0, o.last - math.floor((now - o.ends) / forget)) end
  return o
end

-- Counts strikes of one who is not shut out. `block_of(level)` says how long a block is that follows so many others.
local function strike(o, strikes, threshold, block_of)
  o.clear = o.clear + strikes * o.decay
  if math.ceil((o.clear - now) / o.decay) >= threshold then
    o.ends = now + block_of(o.level)
    o.clear, o.level = now, o.level + 1
    o.last = o.level
  end
end

local function keep_offender(o)
  redis.call('HSET', o.key, 'c', whole(o.clear), 'u', whole(o.ends), 'l', o.last)
  if o.struck > 0 then redis.call('HSET', o.key, 't', whole(o.struck)) end
  redis.call('PEXPIRE', o.key, whole(math.max(1, o.clear - now, o.ends + o.forget * o.last - now)))
end

-- Returns blocked_ms, strikes, level.
local function stand_of_offender(o)
  return math.max(0, o.ends - now), math.ceil((o.clear - now) / o.decay), o.level
end
