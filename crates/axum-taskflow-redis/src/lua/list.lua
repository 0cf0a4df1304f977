-- A part of a list, newest first: Backend::list. ARGV: set ("all", "f:NAME", "s:STATUS", "y:TAG", or "pending" and
-- "running" for what somebody or nobody holds), from and to as ZRANGEBYLEX takes them, how many, and of how many bytes
-- arguments and results are needed. Answers for each with id, life, body and progress.
local set, newest, oldest, limit, bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local sets = { set }
if set == 'pending' or set == 'running' then
    sets = {}
    if set == 'pending' then
        sets[1] = 'o:-'
    end
    for _, owner in ipairs(redis.call('SMEMBERS', P .. 'os')) do
        sets[#sets + 1] = 'o:' .. owner
    end
end
local ids = {}
for _, name in ipairs(sets) do
    for _, id in ipairs(redis.call('ZREVRANGEBYLEX', P .. name, newest, oldest, 'LIMIT', 0, limit)) do
        ids[#ids + 1] = id
    end
end
if #sets > 1 then
    table.sort(ids, function(one, other) return one > other end)
end

local answer = {}
for n = 1, math.min(limit, #ids) do
    local id = ids[n]
    local life, body = beginning(P .. 'l:' .. id, bytes), beginning(P .. 't:' .. id, bytes)
    if life ~= '' and body ~= '' then
        answer[#answer + 1] = id
        answer[#answer + 1] = life
        answer[#answer + 1] = body
        answer[#answer + 1] = redis.call('GET', P .. 'q:' .. id)
    end
end
return answer
