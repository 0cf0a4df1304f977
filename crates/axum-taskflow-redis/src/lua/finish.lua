-- The audit; then what was gathered is written, and told of: the end of WRITE and STEP.
local first_entry, last_entry = list()
for at = first_entry, last_entry do
    local entry = words[at]
    local id = string.sub(entry, 1, 36)
    local known = redis.call('ZRANGEBYLEX', P .. 'u', '[' .. id, '(' .. id .. '\255', 'LIMIT', 0, 1)
    if #known == 0 then
        redis.call('ZADD', P .. 'u', 0, entry)
    end
end

local to_set = {}
for id, life in pairs(stored) do
    to_set[#to_set + 1] = P .. 'l:' .. id
    to_set[#to_set + 1] = life
end
each_chunk(to_set, function(...) redis.call('MSET', ...) end)
write_marks()
for minute, sums in pairs(minutes) do
    for field, sum in pairs(sums) do
        add_end(minute, field, sum[1], string.format('%d', sum[2]))
    end
end
for set in pairs(owners) do
    if set ~= 'o:-' then
        local owner = string.sub(set, 3)
        -- Who was there before is known, or was buried, and then its tasks are looked for.
        if redis.call('SADD', P .. 'os', owner) == 1 then
            if redis.call('ZSCORE', P .. 'x', owner) then
                redis.call('SADD', P .. 'xo', owner)
            elseif redis.call('HEXISTS', P .. 'i', owner) == 0 then
                bury_later(owner) -- nobody would see that it dies
            end
        end
    end
end
for name in pairs(waiting) do
    redis.call('SADD', P .. 'wn', name)
end
if something_waits then
    if next(waiting) and now > latest then
        redis.call('SET', P .. 'h', words[1])
    end
    publish(ARGV[1], ARGV[4]) -- who need not be told
end
if #refused + #stale + #versions == 0 then
    return 0 -- costs less than empty lists
end
return { refused, stale, versions }
