-- Read what a replay ring holds after an entry.
-- KEYS   [1] the ring   [2] its sums, see append.lua
-- ARGV   [1] id after which to read, 0 for all   [2] most entries
-- reply  {1 when nothing in between was dropped, id, data, id, data, ...}
-- cost   O(log(ring) + entries returned)
local dropped = tonumber(redis.call('HGET', KEYS[2], 'd'))
local after = tonumber(ARGV[1])
local is_complete = after == 0 or (dropped ~= nil and after >= dropped)
local reply = {is_complete and 1 or 0}
if dropped == nil then return reply end
local from = string.format('%.0f', after + 1)
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[2])) do
  reply[#reply + 1] = tonumber(string.match(entry[1], '%d+'))
  reply[#reply + 1] = entry[2][2]
end
return reply