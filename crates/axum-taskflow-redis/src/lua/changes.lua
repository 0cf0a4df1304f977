-- Changes one by one: those from `change` on, and before them those that were not as expected.
if change <= last_change or #unexpected > 0 then
    local function apply_change(number, id, expected, life, name, attempt, key, key_says, key_left, minute, ran_ms,
            status, owner_set, waits_in, place)
        local old = lives[id]
        if not old or string.sub(old, 1, #expected) ~= expected then
            -- Else it was written before, and the answer was lost.
            if not old or old ~= life and old ~= said_late(life) then
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
            settle_key(id, key, key_says, key_left, redis.call('GET', key))
        end
        if minute ~= '' then
            count_end(minute, status, name, 1, tonumber(ran_ms))
        end
    end

    local ids = {}
    for _, one in ipairs(unexpected) do ids[#ids + 1] = one[2] end
    for at = change + 1, last_change, 15 do ids[#ids + 1] = words[at] end
    look_at(ids)
    for _, one in ipairs(unexpected) do try(pcall(apply_change, unpack(one))) end
    for at = change, last_change, 15 do try(pcall(apply_change, unpack(words, at, at + 14))) end
end
