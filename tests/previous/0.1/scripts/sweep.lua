-- Remove what is finished among the next keys of a walk through all of them; what is in flight stays.
-- KEYS   [1] any key of ours, for the server's slot
-- ARGV   [1] cursor, '0' to begin   [2] pattern   [3] how many keys to look at, about
-- reply  {next cursor as text, '0' at the end; how many went}
-- cost   O(keys looked at): one SCAN; a GETRANGE of one byte and an UNLINK for each that matches
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3], 'TYPE', 'string')
local gone = 0
for _, key in ipairs(page[2]) do
  if redis.call('GETRANGE', key, 13, 13) == 'r' then gone = gone + redis.call('UNLINK', key) end
end
return {page[1], gone}