-- Keep a record that was made elsewhere while this server was away, unless the key has another owner or record here.
-- KEYS   [1] the claim
-- ARGV   [1] fixed time in ms for tests, else ''   [2] fingerprint   [3] fence of its claim here, 0 when there was none
--        [4] record   [5] ttl_ms
-- reply  1 kept · 0 not
-- cost   O(1): one GET; one SET when kept
-- `now` in ms and `micros`: the server's time, or ARGV[1] (ms) when a test fixed it.
local now, micros
if ARGV[1] == '' then
  local time = redis.call('TIME')
  micros = time[1] * 1000000 + time[2]
  now = math.floor(micros / 1000)
else
  now = tonumber(ARGV[1])
  micros = now * 1000
end

-- Numbers of this size lose digits when Lua writes them itself.
local function whole(number)
  return string.format('%.0f', number)
end

-- A claim is one string: fence (7 bytes), its end in ms (6; 0 when released), 'r' when a record follows, else '-', the
-- fingerprint behind its length (1 byte), then the record, or the name of the owner while there is none. A hash would turn
-- into a table as soon as it holds a record, and take 280 bytes more for it.
local function read_claim(key)
  local found = redis.call('GET', key)
  if not found then return nil end
  local fence, ends, kind, length = struct.unpack('>I7I6c1B', found)
  local claim = {fence = fence, ends = ends, print = string.sub(found, 16, 15 + length)}
  claim[kind == 'r' and 'record' or 'owner'] = string.sub(found, 16 + length)
  return claim
end

local function write_claim(key, fence, ends, print, record, ttl, owner)
  local head = struct.pack('>I7I6c1B', fence, ends, record and 'r' or '-', #print)
  redis.call('SET', key, head .. print .. (record or owner or ''), 'PX', string.format('%.0f', ttl))
end

-- The claim, if it is still this fence's and no record was written.
local function held_claim(key, fence)
  local claim = read_claim(key)
  if not claim or claim.fence ~= tonumber(fence) or claim.ends == 0 or claim.record then return nil end
  return claim
end

local claim = read_claim(KEYS[1])
if claim and claim.ends > now and (claim.record or claim.fence ~= tonumber(ARGV[3])) then return 0 end
local fence = math.max(micros, (claim and claim.fence or 0) + 1)
local ttl = tonumber(ARGV[5])
write_claim(KEYS[1], fence, now + ttl, ARGV[2], ARGV[4], ttl)
return 1