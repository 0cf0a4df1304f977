-- What waits for its time, in that order: Backend::ahead. ARGV: from and to as ZRANGEBYLEX takes them, how many, and of how
-- many bytes arguments are needed. Answers for each with its place, id, life, body and progress.
local answer = {}
for _, place in ipairs(redis.call('ZRANGEBYLEX', P .. 'a', ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
    local id = string.sub(place, 24, 59)
    local life, body = redis.call('GET', P .. 'l:' .. id), beginning(P .. 't:' .. id, tonumber(ARGV[4]))
    if life and body ~= '' then
        answer[#answer + 1] = place
        answer[#answer + 1] = id
        answer[#answer + 1] = life
        answer[#answer + 1] = body
        answer[#answer + 1] = redis.call('GET', P .. 'q:' .. id)
    end
end
return answer
