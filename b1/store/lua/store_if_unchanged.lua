-- Keep a loaded value unless something that it depends on was invalidated since its vector was taken; end its lease.
-- KEYS   [1] the version table   [2] the entry   [3] its lease
-- ARGV   [1] the vector: epoch and one version per bucket   [2] ttl_ms   [3] '1' to keep the value, '0' to give up
--        [4] the value   [5] for how long before its end it is stale, ms   [6] the packed buckets of the tags, in the
--        vector's order
-- reply  1 kept · 0 not
-- cost   O(tags + value): one GETRANGE per tag, one SET, one GET and DEL of the lease
-- include versions
local is_there = has_table(KEYS[1])
if redis.pcall('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
if ARGV[3] ~= '1' or not is_there then return 0 end
if vector_of(KEYS[1], redis.call('GETRANGE', KEYS[1], 0, 7), ARGV[6]) ~= ARGV[1] then return 0 end
local head = struct.pack('>BBI4', 2, #ARGV[6] / 4, tonumber(ARGV[5]))
redis.call('SET', KEYS[2], head .. ARGV[1] .. ARGV[6] .. struct.pack('>I4', #ARGV[4]) .. ARGV[4], 'PX', ARGV[2])
return 1
