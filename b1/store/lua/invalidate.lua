-- Make stale what depends on some tags, or everything, also what is being loaded.
-- KEYS   [1] the version table
-- ARGV   [1] 8 random bytes: the new epoch, and that of a table that is not there   [2] '1' for everything
--        then the buckets of the tags, all different
-- reply  1
-- cost   O(tags): one GETRANGE and one SETRANGE each
-- include versions
if epoch_of(KEYS[1], ARGV[1]) == ARGV[1] then return 1 end
if ARGV[2] == '1' then redis.call('SETRANGE', KEYS[1], 0, ARGV[1]) end
for i = 3, #ARGV do
  local bucket = tonumber(ARGV[i])
  local version = (struct.unpack('>I4', version_of(KEYS[1], bucket)) + 1) % 4294967296
  redis.call('SETRANGE', KEYS[1], 8 + bucket * 4, struct.pack('>I4', version))
end
return 1
