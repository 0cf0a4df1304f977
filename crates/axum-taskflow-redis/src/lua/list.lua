-- A part of a list, newest first: Backend::list. ARGV: set ("f:NAME", "s:STATUS", "y:TAG", "all", or "pending" and
-- "running" for what somebody or nobody holds), from and to as ZRANGEBYLEX takes them, how many, and of how many bytes
-- arguments and results are needed. Answers with the last id that was looked at, or nothing if there is none behind it, and
-- for each with id, life, body and progress.
local set, newest, oldest, limit, bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local sets = { set }
if set == 'all' then
    sets = sets_of_all()
elseif set == 'pending' or set == 'running' then
    sets = {}
    if set == 'pending' then
        sets[1] = 'o:-'
    end
    for _, owner in ipairs(redis.call('SMEMBERS', P .. 'os')) do
        sets[#sets + 1] = 'o:' .. owner
    end
end

local ids = first_ids('ZREVRANGEBYLEX', sets, newest, oldest, limit)
local answer = { #ids == limit and ids[limit] or '' }
for _, id in ipairs(ids) do
    local life, body = beginning(P .. 'l:' .. id, bytes), beginning(P .. 't:' .. id, bytes)
    if life ~= '' and body ~= '' then
        answer[#answer + 1] = id
        answer[#answer + 1] = life
        answer[#answer + 1] = body
        answer[#answer + 1] = redis.call('GET', P .. 'q:' .. id)
    end
end
return answer
