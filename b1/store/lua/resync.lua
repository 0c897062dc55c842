-- Read the whole version table; make it if it is not there.
-- KEYS   [1] the version table
-- ARGV   [1] 8 random bytes: the epoch of a table that is not there, or has lost changes   [2] the epoch that the caller
--        knows   [3] the number of the last change that it knows, as a decimal; beyond it, the table lost some
-- reply  the table: see shared/versions.lua
-- cost   O(1): one GET of 262160 bytes
-- include versions
local epoch = epoch_of(KEYS[1], ARGV[1])
if epoch == ARGV[2] and struct.unpack('>I8', redis.call('GETRANGE', KEYS[1], 8, 15)) < tonumber(ARGV[3]) then
  -- A replica that had not heard of them took over, or an old copy was loaded: what they invalidated would be served.
  redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
  publish(KEYS[1], ARGV[1], 0, string.rep('\0', 8), '')
end
return redis.call('GET', KEYS[1])
