-- New tasks.
for _ = 1, word() do
    local name, status, owner_set, waits_in = word(), word(), word(), word()
    local value, last_value = list()
    local member, last_member = list()
    local place, last_place = list()
    local tag, last_tag = list()
    local number = list()
    local key, last_key = list()
    -- All of them or, if one is there already, none: then it is looked at which. So with their keys.
    local has_keys = key <= last_key
    local are_keys_free = not has_keys or redis.call('MSETNX', unpack(words, key, last_key)) == 1
    local are_new = are_keys_free and redis.call('MSETNX', unpack(words, value, last_value)) == 1
    if has_keys and are_keys_free then
        for at = key, last_key, 2 do
            if not are_new then
                redis.call('DEL', words[at])
            elseif keys_before[words[at]] == nil then
                keys_before[words[at]] = false -- it was free
            end
        end
    end
    if not are_new then
        -- The task that has the key and its function; or nothing, and the key is the new task's.
        local function take_key(key_name, says)
            local holder = redis.pcall('GET', key_name)
            if type(holder) == 'table' then
                try(false, holder)
                return ''
            end
            if holder then
                local holder_id, until_ms, holder_function = string.match(holder, '^(%S+) (%S+) (.*)$')
                if not holder_id then
                    return holder -- who can read it may know a task that has the key: it is not free
                end
                local ends_at = tonumber(until_ms)
                if not ends_at or now < ends_at then
                    return holder_id .. holder_function
                end
            end
            if keys_before[key_name] == nil then keys_before[key_name] = false end -- it was free
            redis.call('SET', key_name, says)
            return nil
        end

        -- Only what is to be made is left: not what is there already, nor what has a key that is taken.
        local is_made, n_new, n_tags = {}, 0, 0
        for n = 0, (last_member - member - 1) / 2 do
            local id = words[member + 2 * n + 1]
            if redis.call('EXISTS', words[value + 4 * n + 2]) == 0 then
                local holder = has_keys and take_key(words[key + 2 * n], words[key + 2 * n + 1])
                if holder then
                    refused[#refused + 1] = words[number + n]
                    refused[#refused + 1] = holder
                else
                    is_made[id] = true
                    for m = 0, 3 do words[value + 4 * n_new + m] = words[value + 4 * n + m] end
                    words[member + 2 * n_new + 1] = id
                    if place <= last_place then
                        words[place + 2 * n_new + 1] = words[place + 2 * n + 1]
                    end
                    n_new = n_new + 1
                end
            end
        end
        for at = tag, last_tag, 2 do
            if is_made[words[at + 1]] then
                words[tag + 2 * n_tags], words[tag + 2 * n_tags + 1] = words[at], words[at + 1]
                n_tags = n_tags + 1
            end
        end
        last_value, last_member, last_tag = value + 4 * n_new - 1, member + 2 * n_new - 1, tag + 2 * n_tags - 1
        if n_new > 0 then
            redis.call('MSET', unpack(words, value, last_value))
        end
    end
    made[#made + 1] = { value, last_value, member, 'f:' .. name, owner_set, waits_in, place, tag, last_tag }
    if member <= last_member then
        try(pcall(redis.call, 'ZADD', P .. 'f:' .. name, unpack(words, member, last_member)))
        try(pcall(redis.call, 'ZADD', P .. owner_set, unpack(words, member, last_member)))
        owners[owner_set] = true
        if waits_in ~= '' then
            try(pcall(redis.call, 'ZADD', P .. waits_in, unpack(words, place, place + last_member - member)))
            something_waits = true
            if waits_in ~= 'a' then
                waiting[name] = true
            end
        end
        for at = tag, last_tag, 2 do
            try(pcall(redis.call, 'ZADD', P .. 'y:' .. words[at], '0', words[at + 1]))
        end
        local n_tasks = (last_member - member + 1) / 2
        if n_tasks > 1 then -- what comes alone is not in a hurry
            try(pcall(make_skip_list, owner_set))
        end
        count(status, name, n_tasks)
    end
end
