-- Deletes a part of the minutes and audit entries that are old, and forgets who is gone for long. ARGV: series_before,
-- the first audit entry to keep as ZRANGEBYLEX takes it, how many at most. Answers with 1 if there may be more.
local minutes = redis.call('ZRANGEBYSCORE', P .. 'ms', '-inf', '(' .. ARGV[1], 'LIMIT', '0', ARGV[3])
for _, minute in ipairs(minutes) do
    redis.call('UNLINK', P .. 'm:' .. minute)
    redis.call('ZREM', P .. 'ms', minute)
end
local entries = redis.call('ZRANGEBYLEX', P .. 'u', '-', ARGV[2], 'LIMIT', '0', ARGV[3])
each_chunk(entries, function(...) redis.call('ZREM', P .. 'u', ...) end)
redis.call('ZREMRANGEBYSCORE', P .. 'x', '-inf', redis.call('TIME')[1] - 604800)
return (#minutes == tonumber(ARGV[3]) or #entries == tonumber(ARGV[3])) and 1 or 0
