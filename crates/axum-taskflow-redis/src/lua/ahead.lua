-- What waits for its time, in that order: Backend::ahead. ARGV: from and to as ZRANGEBYLEX takes them, how many, and of how
-- many bytes arguments are needed. Answers with the last place that was looked at, or nothing if there is none behind it, and
-- for each with id, life, body and progress.
local limit = tonumber(ARGV[3])
local places = redis.call('ZRANGEBYLEX', P .. 'a', ARGV[1], ARGV[2], 'LIMIT', '0', limit)
local answer = { #places == limit and places[limit] or '' }
for _, place in ipairs(places) do
    local id = string.sub(place, 24, 59)
    local life, body = redis.call('GET', P .. 'l:' .. id), beginning(P .. 't:' .. id, tonumber(ARGV[4]))
    if life and body ~= '' then
        answer[#answer + 1] = id
        answer[#answer + 1] = life
        answer[#answer + 1] = body
        answer[#answer + 1] = redis.call('GET', P .. 'q:' .. id)
    end
end
return answer
