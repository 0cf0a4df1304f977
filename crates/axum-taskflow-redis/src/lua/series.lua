-- What ended in minutes: Backend::series. ARGV: the first minute, how many minutes. Answers for each with the minute and
-- fields "n STATUS NAME" (how many) and "t STATUS NAME" (milliseconds).
local answer = {}
for _, minute in ipairs(redis.call('ZRANGEBYSCORE', P .. 'ms', ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])) do
    answer[#answer + 1] = minute
    answer[#answer + 1] = redis.call('HGETALL', P .. 'm:' .. minute)
end
return answer
