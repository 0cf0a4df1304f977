-- What ended in minutes: Backend::series. ARGV: the first minute as ZRANGEBYSCORE takes it, how many minutes and, about, how
-- many fields. Answers with where the next part begins, or nothing if there is none, and for each with the minute and fields
-- "n STATUS NAME" (how many) and "t STATUS NAME" (milliseconds).
local limit, fields_left = tonumber(ARGV[2]), tonumber(ARGV[3])
local minutes = redis.call('ZRANGEBYSCORE', P .. 'ms', ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', '0', limit)
local answer = { #minutes == 2 * limit and '(' .. minutes[2 * limit] or '' }
for at = 1, #minutes, 2 do
    local fields = redis.call('HGETALL', P .. 'm:' .. minutes[at])
    answer[#answer + 1] = minutes[at]
    answer[#answer + 1] = fields
    fields_left = fields_left - #fields / 2
    local score, next_score = minutes[at + 1], minutes[at + 3]
    if fields_left <= 0 and next_score and next_score ~= score then
        answer[1] = '(' .. score
        break
    end
end
return answer
