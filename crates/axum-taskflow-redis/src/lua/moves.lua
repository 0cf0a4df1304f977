-- Starts, ends and releases that have much in common.
local unexpected = {} -- is looked at one by one, as other changes are

local function ids_of(keys)
    local ids = {}
    for n, key in ipairs(keys) do ids[n] = string.sub(key, -36) end
    return ids
end

-- The compare is of each task; what follows is done for all at once, if all stand and are held as expected.
for _ = 1, word() do
    local expected, holder, name, status, owner_set, waits_in, minute =
        word(), word(), word(), word(), word(), word(), word()
    local value, last_value = list()
    local number, last_number = list()
    local place, last_place = list()
    local fate, last_fate = list() -- of idempotency keys
    local keys, n_tasks = {}, (last_value - value + 1) / 2
    for n = 1, n_tasks do keys[n] = words[value + 2 * n - 2] end
    local found = redis.call('MGET', unpack(keys))
    local prefix, ran_ms, are_as_expected = expected .. holder .. ' ', 0, true
    local are_released = waits_in ~= ''
    for n = 1, n_tasks do
        are_as_expected = are_as_expected and found[n] and string.find(found[n], prefix, 1, true) == 1
    end
    if not are_as_expected then
        for n, id in ipairs(ids_of(keys)) do
            local of, ran_ms_of, life = words[number + 2 * n - 2], words[number + 2 * n - 1], words[value + 2 * n - 1]
            local is_expected, place_of = expected, ''
            if are_released then
                is_expected, place_of = prefix, words[place + 2 * n - 1]
            end
            local key, says, left = '', '', ''
            if fate <= last_fate then
                key, says, left = unpack(words, fate + 3 * n - 3, fate + 3 * n - 1)
            end
            unexpected[#unexpected + 1] = { of, id, is_expected, life, name, '', key, says, left, minute, ran_ms_of, status,
                owner_set, waits_in, place_of }
        end
    else
        redis.call('MSET', unpack(words, value, last_value))
        moved[#moved + 1] = { keys, found, owner_set ~= 'o:' .. holder and holder or nil }
        if owner_set == 'o:' .. holder then
            owners[owner_set] = true
        else
            local ids = ids_of(keys)
            try(pcall(redis.call, 'ZREM', P .. 'o:' .. holder, unpack(ids)))
            if are_released then
                local members = {}
                for n, id in ipairs(ids) do members[2 * n - 1], members[2 * n] = '0', id end
                try(pcall(redis.call, 'ZADD', P .. owner_set, unpack(members)))
                try(pcall(redis.call, 'ZADD', P .. waits_in, unpack(words, place, last_place)))
                something_waits = true
                if waits_in ~= 'a' then
                    waiting[name] = true
                end
            end
        end
        if fate <= last_fate then
            local function settle_keys()
                local key_names, ids = {}, ids_of(keys)
                for n = 1, n_tasks do key_names[n] = words[fate + 3 * n - 3] end
                local holders = redis.call('MGET', unpack(key_names))
                for n, key in ipairs(key_names) do
                    -- Which of a key of another type is none; then this fails.
                    local holder = holders[n] or redis.call('GET', key)
                    settle_key(ids[n], key, words[fate + 3 * n - 2], words[fate + 3 * n - 1], holder)
                end
            end
            try(pcall(settle_keys))
        end
        count(string.match(expected, '^%a+'), name, -n_tasks)
        count(status, name, n_tasks)
        if minute ~= '' then
            for at = number + 1, last_number, 2 do ran_ms = ran_ms + words[at] end
            count_end(minute, status, name, n_tasks, ran_ms)
        end
    end
end

local change, last_change = list() -- of `changes.lua`
