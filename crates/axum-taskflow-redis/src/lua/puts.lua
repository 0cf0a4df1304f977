-- The audit; then what was gathered is put where it belongs and counted, since that may fail.
local first_entry, last_entry = list()
for at = first_entry, last_entry do
    local entry = words[at]
    local id = string.sub(entry, 1, 36)
    local known = redis.pcall('ZRANGEBYLEX', P .. 'u', '[' .. id, '(' .. id .. '\255', 'LIMIT', '0', '1')
    if #known == 0 then
        try(pcall(redis.call, 'ZADD', P .. 'u', '0', entry))
    end
end

for set in pairs(owners) do
    if set ~= 'o:-' then
        local owner = string.sub(set, 3)
        -- Who was there before is known, or was buried, and then its tasks are looked for.
        if redis.pcall('SISMEMBER', P .. 'os', owner) ~= 1 then
            local function holds_something()
                if redis.call('ZSCORE', P .. 'x', owner) then
                    redis.call('SADD', P .. 'xo', owner)
                elseif redis.call('HEXISTS', P .. 'i', owner) == 0 then
                    bury_later(owner) -- nobody would see that it dies
                end
                redis.call('SADD', P .. 'os', owner)
            end
            try(pcall(holds_something))
        end
    end
end
for name in pairs(waiting) do
    try(pcall(redis.call, 'SADD', P .. 'wn', name))
end
try(pcall(put_marks))
-- None of the sums is to be written twice: what may fail behind one of them is met before.
if next(minutes) then
    try(pcall(redis.call, 'ZCARD', P .. 'ms'))
end
for minute in pairs(minutes) do
    try(pcall(redis.call, 'HLEN', P .. 'm:' .. minute))
end
if not failure then
    try(pcall(write_counts))
end
if not failure then
    for minute, sums in pairs(minutes) do
        for field, sum in pairs(sums) do
            add_end(minute, field, sum[1], string.format('%d', sum[2]))
        end
    end
end
