-- One task: Backend::get. ARGV: id, how many of its past attempts are known already and, if it is not the first part, how
-- many there were. Answers with how many there are, life, body, progress, and past attempts: as many as an answer has room
-- for. In a later part life, body and progress are empty.
local id, n_known, n_attempts = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3] or '')
local answer, bytes = { 0, '', '', '' }, 0
if not n_attempts then
    local parts = redis.call('MGET', P .. 'l:' .. id, P .. 't:' .. id, P .. 'q:' .. id)
    if not parts[1] or not parts[2] then
        return false
    end
    n_attempts = redis.call('LLEN', P .. 'p:' .. id)
    answer[2], answer[3], answer[4] = parts[1], parts[2], parts[3]
    bytes = #parts[1] + #parts[2]
end
answer[1] = n_attempts
-- Not all are read first: they may be large.
for first = n_known, n_attempts - 1, 16 do
    local last = math.min(first + 15, n_attempts - 1)
    for _, attempt in ipairs(redis.call('LRANGE', P .. 'p:' .. id, first, last)) do
        bytes = bytes + #attempt
        if bytes > BYTES_MAX and (#answer > 4 or not ARGV[3]) then
            return answer
        end
        answer[#answer + 1] = attempt
    end
end
return answer
