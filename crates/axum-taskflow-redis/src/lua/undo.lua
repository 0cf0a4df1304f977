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
    -- Nobody may ever try again, and a task that is none is found by no end of another: it goes out of its sets, too.
    for _, it in ipairs(made) do
        local value, last_value, member, set_of_all, owner_set, waits_in, place, tag, last_tag = unpack(it)
        for n = 0, (last_value - value - 3) / 4 do
            redis.call('DEL', words[value + 4 * n], words[value + 4 * n + 2])
            redis.pcall('ZREM', P .. set_of_all, words[member + 2 * n + 1])
            redis.pcall('ZREM', P .. owner_set, words[member + 2 * n + 1])
            if waits_in ~= '' then redis.pcall('ZREM', P .. waits_in, words[place + 2 * n + 1]) end
        end
        for at = tag, last_tag, 2 do redis.pcall('ZREM', P .. 'y:' .. words[at], words[at + 1]) end
    end
    for _, id in ipairs(past) do redis.call('RPOP', P .. 'p:' .. id) end
    for name, holder in pairs(keys_before) do
        redis.call('DEL', name)
        if holder then redis.call('SET', name, holder) end
    end
    return type(failure) == 'table' and failure or { err = tostring(failure) }
end
