if failure then
    for _, it in ipairs(moved) do
        local keys, lives_before, dropped_from = unpack(it)
        for n, key in ipairs(keys) do
            redis.call('SET', key, lives_before[n])
            if dropped_from then
                redis.pcall('ZADD', P .. 'o:' .. dropped_from, '0', string.sub(key, -36))
            end
        end
    end
    for n = 1, #made, 2 do
        for at = made[n], made[n + 1], 2 do redis.call('DEL', words[at]) end
    end
    for _, id in ipairs(past) do redis.call('RPOP', P .. 'p:' .. id) end
    for name, holder in pairs(keys_before) do
        redis.call('DEL', name)
        if holder then redis.call('SET', name, holder) end
    end
    return type(failure) == 'table' and failure or { err = tostring(failure) }
end
