-- What ended in minutes: Backend::series. ARGV: the first minute as ZRANGEBYSCORE takes it, how many minutes. Answers with
-- where the next part begins, or nothing if there is none, and for each with the minute and fields "n STATUS NAME" (how
-- many) and "t STATUS NAME" (milliseconds).
local limit = tonumber(ARGV[2])
local minutes = redis.call('ZRANGEBYSCORE', P .. 'ms', ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
local answer = { #minutes == 2 * limit and '(' .. minutes[2 * limit] or '' }
for n = 1, #minutes, 2 do
    answer[#answer + 1] = minutes[n]
    answer[#answer + 1] = redis.call('HGETALL', P .. 'm:' .. minutes[n])
end
return answer
