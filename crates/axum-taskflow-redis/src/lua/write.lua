-- Does everything in a batch: Backend::write.
--
-- ARGV: session, generation, now, how many tasks, changes, notes and audit entries; then each
--   task:   id, life, body, function, key (after "="), tags as JSON or nothing
--   change: id, what is expected of the life ("STATUS EPOCH "), life, function, past attempt as JSON or nothing,
--           fate of the key ("F"KEY freed, "K"UNTIL" "KEY kept, or nothing), minute and milliseconds of a terminal one
--   note:   id, epoch, "L"line for sorting or "P", JSON
--   audit:  id and JSON in one
-- Answers for each task with 1, or the id and the function of the one that has its key; for each change with 1 or 0.
if is_late(ARGV[1], ARGV[2]) then
    return LATE
end
if is_empty() then
    return EMPTY
end
local now = tonumber(ARGV[3])
local n_tasks, n_changes = tonumber(ARGV[4]), tonumber(ARGV[5])
local n_notes, n_audit = tonumber(ARGV[6]), tonumber(ARGV[7])
local first_task = 8
local first_change = first_task + n_tasks * 6
local first_note = first_change + n_changes * 8
local first_audit = first_note + n_notes * 4

local lives, stored = {}, {}
local ids = {}
for n = 0, n_tasks - 1 do ids[#ids + 1] = ARGV[first_task + n * 6] end
for n = 0, n_changes - 1 do ids[#ids + 1] = ARGV[first_change + n * 8] end
for n = 0, n_notes - 1 do ids[#ids + 1] = ARGV[first_note + n * 4] end
local found = get_all('l:', ids)
for n, id in ipairs(ids) do
    lives[id] = found[n] or nil
end

local answers, to_set, owners = {}, {}, {}
local something_waits = false

local function put(id, life, name, status, owner, run_at, priority)
    lives[id] = life
    stored[id] = true
    count(status, name, 1)
    if status == 'pending' or status == 'running' then
        mark('o:' .. owner, id, true)
        if owner ~= '-' then
            owners[owner] = true
        elseif tonumber(run_at) <= now then
            mark('w:' .. name, due_place(priority or priority_of(id), run_at, id), true)
            redis.call('SADD', P .. 'wn', name)
            something_waits = true
        else
            mark('a', ahead_place(priority or priority_of(id), run_at, id, name), true)
            something_waits = true
        end
    elseif status ~= 'success' then
        mark('s:' .. status, id, true)
    end
end

for n = 0, n_tasks - 1 do
    local at = first_task + n * 6
    local id, life, body, name, key, tags = unpack(ARGV, at, at + 5)
    local answer = 1
    if not lives[id] then
        if key ~= '' then
            local key_name = P .. 'k:' .. string.sub(key, 2)
            local holder = redis.call('GET', key_name)
            if holder then
                local holder_id, until_ms, holder_function = string.match(holder, '^(%S+) (%S+) (.*)$')
                if until_ms == '-' or now < tonumber(until_ms) then
                    answer = holder_id .. holder_function
                end
            end
            if answer == 1 then
                redis.call('SET', key_name, id .. ' - ' .. name)
            end
        end
        if answer == 1 then
            to_set[#to_set + 1] = P .. 't:' .. id
            to_set[#to_set + 1] = body
            mark('all', id, true)
            mark('f:' .. name, id, true)
            if tags ~= '' then
                for _, tag in ipairs(cjson.decode(tags)) do
                    mark('y:' .. tag, id, true)
                end
            end
            local status, _, owner, _, _, run_at = read_life(life)
            put(id, life, name, status, owner, run_at, string.sub(body, 1, 8))
        end
    end
    answers[#answers + 1] = answer
end
-- Before the changes, which may look for a priority.
each_chunk(to_set, function(...) redis.call('MSET', ...) end)

local minutes = {}
for n = 0, n_changes - 1 do
    local at = first_change + n * 8
    local id, expected, life, name, attempt, key, minute, ran_ms = unpack(ARGV, at, at + 7)
    local old = lives[id]
    local answer = 0
    if old and string.sub(old, 1, #expected) == expected then
        answer = 1
        local old_status, _, old_owner, _, _, old_run_at = read_life(old)
        mark('o:' .. old_owner, id, false)
        if old_owner == '-' and old_status == 'pending' then
            local priority = priority_of(id)
            mark('w:' .. name, due_place(priority, old_run_at, id), false)
            mark('a', ahead_place(priority, old_run_at, id, name), false)
        end
        count(old_status, name, -1)
        local status, _, owner, _, _, run_at = read_life(life)
        put(id, life, name, status, owner, run_at)
        if attempt ~= '' then
            redis.call('RPUSH', P .. 'p:' .. id, attempt)
            redis.call('LTRIM', P .. 'p:' .. id, -1000, -1)
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
                if fate == 'F' then
                    redis.call('DEL', key_name)
                else
                    local function_name = string.match(holder, '^%S+ %S+ (.*)$')
                    -- The clocks of callers say when it is free; this is only so that nothing is left.
                    local left = math.max(0, math.min(tonumber(until_ms) - now, 315360000000))
                    redis.call('SET', key_name, id .. ' ' .. until_ms .. ' ' .. function_name,
                        'PX', string.format('%d', left + 3600000))
                end
            end
        end
        if minute ~= '' then
            local sums = minutes[minute]
            if not sums then
                sums = {}
                minutes[minute] = sums
            end
            local field = status .. ' ' .. name
            local sum = sums[field] or { 0, 0 }
            sums[field] = { sum[1] + 1, sum[2] + tonumber(ran_ms) }
        end
    elseif old == life then
        answer = 1 -- written before, and the answer was lost
    end
    answers[#answers + 1] = answer
end

for n = 0, n_notes - 1 do
    local at = first_note + n * 4
    local id, epoch, place, json = unpack(ARGV, at, at + 3)
    local life = lives[id]
    if life and string.match(life, '^%a+ (%d+)') == epoch then
        if place == 'P' then
            redis.call('SET', P .. 'q:' .. id, json)
        else
            local lines, prefix = P .. 'g:' .. id, string.sub(place, 2)
            local known = redis.call('ZRANGEBYLEX', lines, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)
            if #known == 0 then
                redis.call('ZADD', lines, 0, prefix .. json)
                if string.sub(prefix, -2) == '00' then
                    redis.call('ZREMRANGEBYRANK', lines, 0, -10001)
                end
            end
        end
    end
end

for n = 0, n_audit - 1 do
    local entry = ARGV[first_audit + n]
    local id = string.sub(entry, 1, 36)
    local known = redis.call('ZRANGEBYLEX', P .. 'u', '[' .. id, '(' .. id .. '\255', 'LIMIT', 0, 1)
    if #known == 0 then
        redis.call('ZADD', P .. 'u', 0, entry)
    end
end

to_set = {}
for id in pairs(stored) do
    to_set[#to_set + 1] = P .. 'l:' .. id
    to_set[#to_set + 1] = lives[id]
end
each_chunk(to_set, function(...) redis.call('MSET', ...) end)
write_marks()
for minute, sums in pairs(minutes) do
    redis.call('ZADD', P .. 'ms', minute, minute)
    for field, sum in pairs(sums) do
        redis.call('HINCRBY', P .. 'm:' .. minute, 'n ' .. field, sum[1])
        redis.call('HINCRBY', P .. 'm:' .. minute, 't ' .. field, string.format('%d', sum[2]))
    end
end
for owner in pairs(owners) do
    redis.call('SADD', P .. 'os', owner)
    if redis.call('ZSCORE', P .. 'x', owner) then
        redis.call('SADD', P .. 'xo', owner)
    end
end
if something_waits then
    if now > tonumber(redis.call('GET', P .. 'h') or '0') then
        redis.call('SET', P .. 'h', ARGV[3])
    end
    redis.call('PUBLISH', P .. 'news', '')
end
return answers
