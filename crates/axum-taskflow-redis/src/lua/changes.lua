-- Changes one by one: those from `change` on, and before them those that were not as expected.
if change <= last_change or #unexpected > 0 then
    local function apply_change(number, id, expected, life, name, attempt, key, minute, ran_ms, status, owner_set,
            waits_in, place)
        local old = lives[id]
        if not old or string.sub(old, 1, #expected) ~= expected then
            if old ~= life then -- else it was written before, and the answer was lost
                stale[#stale + 1] = number
            end
            return
        end
        local old_status, old_owner = string.match(old, '^(%a+) %d+ (%S*)')
        if owner_set ~= 'o:' .. old_owner then
            mark('o:' .. old_owner, id, false)
            if owner_set ~= '' then
                mark(owner_set, id, true)
            end
        end
        if old_owner == '-' and old_status == 'pending' then
            local _, _, _, _, _, old_run_at = read_life(old)
            if old_run_at then
                local priority = priority_of(id)
                mark('w:' .. name, due_place(priority, old_run_at, id), false)
                mark('a', ahead_place(priority, old_run_at, id, name), false)
            end
        end
        count(old_status, name, -1)
        count(status, name, 1)
        lives[id] = life
        stored[id] = life
        if owner_set ~= '' then
            owners[owner_set] = true
        elseif status ~= 'success' then
            mark('s:' .. status, id, true)
        end
        if waits_in ~= '' then
            something_waits = true
            mark(waits_in, place, true)
            if waits_in ~= 'a' then
                waiting[name] = true
            end
        end
        if attempt ~= '' then
            redis.call('RPUSH', P .. 'p:' .. id, attempt)
            redis.call('LTRIM', P .. 'p:' .. id, '-1000', '-1')
            past[#past + 1] = id
        end
        if key ~= '' then
            local fate, until_ms = string.sub(key, 1, 1), nil
            key = string.sub(key, 2)
            if fate == 'K' then
                until_ms, key = string.match(key, '^(%d+) (.*)$')
            end
            local key_name = P .. 'k:' .. key
            local holder = redis.call('GET', key_name)
            if holder and string.sub(holder, 1, 36) == id then
                if keys_before[key_name] == nil then keys_before[key_name] = holder end
                if fate == 'F' then
                    redis.call('DEL', key_name)
                else
                    local function_name = string.match(holder, '^%S+ %S+ (.*)$') or name
                    -- The clocks of callers say when it is free; this is only so that nothing is left.
                    local left = math.max(0, math.min(tonumber(until_ms) - now, 315360000000))
                    redis.call('SET', key_name, id .. ' ' .. until_ms .. ' ' .. function_name,
                        'PX', string.format('%d', left + 3600000))
                end
            end
        end
        if minute ~= '' then
            count_end(minute, status, name, 1, tonumber(ran_ms))
        end
    end

    local ids = {}
    for _, one in ipairs(unexpected) do ids[#ids + 1] = one[2] end
    for at = change + 1, last_change, 13 do ids[#ids + 1] = words[at] end
    look_at(ids)
    for _, one in ipairs(unexpected) do try(pcall(apply_change, unpack(one))) end
    for at = change, last_change, 13 do try(pcall(apply_change, unpack(words, at, at + 12))) end
end
