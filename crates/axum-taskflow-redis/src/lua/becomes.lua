-- What becomes of the records of a step.
-- Larger than all before, also than those that a server gave before it lost its last writes: whoever holds something
-- under one of those must not take the next holder's for his own.
local function new_version()
    local time = redis.call('TIME')
    local version = math.max(number_or_0(redis.call('MGET', P .. 'rv')[1]) + 1, time[1] * 1000 + math.floor(time[2] / 1000))
    redis.call('SET', P .. 'rv', string.format('%d', version))
    return version
end

for at = record, last_record, 3 do
    local name, becomes = words[at], words[at + 2]
    if is_new and becomes ~= '=' then
        local version = new_version()
        if becomes == '-' then
            redis.call('HDEL', P .. 'r', name)
            redis.pcall('ZREM', P .. 'rn', name)
        else
            redis.call('HSET', P .. 'r', name, string.format('%d', version) .. ' ' .. string.sub(becomes, 2))
        end
        something_waits = true -- for whoever looks at records
    end
    versions[#versions + 1] = record_of(name)
end
