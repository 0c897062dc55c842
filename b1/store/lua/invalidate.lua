-- Make stale what depends on some tags, or everything, also what is being loaded; tell everybody who listens.
-- KEYS   [1] the version table, which is the channel's name too
-- ARGV   [1] 8 random bytes: a new epoch, or that of a table that is not there   [2] '1' for everything
--        [3] the packed buckets (u32 each) to invalidate hard, all different   [4] those to invalidate softly, none of [3]
-- reply  what was published: see shared/versions.lua
-- cost   O(tags): one GETRANGE and one SETRANGE each, one PUBLISH
-- include versions
local SOFT_END, HARD_END = 128, 2147483648
if not has_table(KEYS[1]) then
  -- The new epoch makes everything stale.
  return epoch_of(KEYS[1], ARGV[1]) .. string.rep('\0', 16)
end
local before = redis.call('GETRANGE', KEYS[1], 0, 7)
local is_all = ARGV[2] == '1'
local moved = {}
local function bump(buckets, is_hard)
  for at = 1, #buckets, 4 do
    local bucket = struct.unpack('>I4', buckets, at)
    local version = struct.unpack('>I4', version_of(KEYS[1], bucket))
    local after = version + 1
    if is_hard or after % 256 >= SOFT_END then after = version - version % 256 + 256 end
    -- Counted out: it begins anew, in another epoch.
    if after >= HARD_END then after, is_all = 0, true end
    local pair = struct.pack('>I4I4', bucket, after)
    redis.call('SETRANGE', KEYS[1], HEAD_BYTES + bucket * 4, string.sub(pair, 5))
    moved[#moved + 1] = pair
  end
end
bump(ARGV[3], true)
bump(ARGV[4], false)
local epoch = is_all and ARGV[1] or before
local number = struct.unpack('>I8', redis.call('GETRANGE', KEYS[1], 8, 15)) + 1
redis.call('SETRANGE', KEYS[1], 0, epoch .. struct.pack('>I8', number))
return publish(KEYS[1], epoch, number, before, table.concat(moved))
