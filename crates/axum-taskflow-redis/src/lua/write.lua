-- Does everything in a batch, or takes a step: Backend::write, Backend::step.
--
-- ARGV: session, generation, and a list of words in MessagePack, which the server reads in half the time of as many
-- arguments: now, how many tasks, changes, notes, audit entries and records, 1 if it is a step; then each
--   task:   id, life, body, function, key (after "="), tags as JSON or nothing, "STATUS NAME" for the counts, set of
--           its owner, set and place in which it waits or nothing
--   change: id, what is expected of the life ("STATUS EPOCH "), life, function, past attempt as JSON or nothing,
--           fate of the key ("F"KEY freed, "K"UNTIL" "KEY kept, or nothing), minute and milliseconds of a terminal one,
--           status, set of the owner or nothing, time for sorting if it waits for anybody
--   note:   id, epoch, "L"line for sorting or "P", JSON
--   audit:  id and JSON in one
--   record: name, expected version, what becomes of it ("=" the same, "+"VALUE, or "-" gone)
-- Answers for each task with 1, or the id and the function of the one that has its key; for each change with 1 or 0; for
-- each record with its version. A step that is stale is answered with nothing.
if is_late(ARGV[1], ARGV[2]) then
    return LATE
end
if is_empty() then
    return EMPTY
end
local words = cmsgpack.unpack(ARGV[3])
local now, n_tasks, n_changes = tonumber(words[1]), tonumber(words[2]), tonumber(words[3])
local n_notes, n_audit, is_step = tonumber(words[4]), tonumber(words[5]), words[7] == '1'
local first_task = 8
local first_change = first_task + n_tasks * 10
local first_note = first_change + n_changes * 11
local first_audit = first_note + n_notes * 4
local first_record = first_audit + n_audit

local function record_of(name)
    local record = redis.call('HGET', P .. 'r', name)
    if not record then
        return '0', nil
    end
    return string.match(record, '^(%d+) (.*)$')
end

local ids = {}
for at = first_task, first_change - 1, 10 do ids[#ids + 1] = words[at] end
for at = first_change, first_note - 1, 11 do ids[#ids + 1] = words[at] end
for at = first_note, first_audit - 1, 4 do ids[#ids + 1] = words[at] end
local lives, found = {}, get_all('l:', ids)
for n = 1, #ids do
    lives[ids[n]] = found[n] or nil
end

-- A step is taken if everything stands as it was seen. If not, but everything is as the step would leave it, it was
-- taken before.
local is_new = true
if is_step then
    local was_taken = true
    for at = first_record, #words, 3 do
        local expects, becomes = words[at + 1], words[at + 2]
        local version, value = record_of(words[at])
        is_new = is_new and version == expects
        if becomes == '=' then
            was_taken = was_taken and version == expects
        elseif becomes == '-' then
            was_taken = was_taken and version == '0'
        else
            was_taken = was_taken and value == string.sub(becomes, 2)
        end
    end
    for at = first_change, first_note - 1, 11 do
        local life, expected = lives[words[at]], words[at + 1]
        is_new = is_new and life and string.sub(life, 1, #expected) == expected
        was_taken = was_taken and life == words[at + 2]
    end
    if not is_new and not was_taken then
        return false
    end
end

local answers, owners, waiting = {}, {}, {}
local something_waits = false

-- New tasks: for each set what is added to it.
local to_set, added, n_by_count = {}, { all = {} }, {}

local function add(set, member)
    local members = added[set]
    if not members then
        members = {}
        added[set] = members
    end
    members[#members + 1] = '0'
    members[#members + 1] = member
end

local stored = {}
local minutes = {}
local function add_tasks()
    for at = first_task, first_change - 1, 10 do
        local id, key = words[at], words[at + 4]
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
                    redis.call('SET', key_name, id .. ' - ' .. words[at + 3])
                end
            end
            if answer == 1 then
                local n, life, name = #to_set, words[at + 1], words[at + 3]
                to_set[n + 1] = P .. 't:' .. id
                to_set[n + 2] = words[at + 2]
                to_set[n + 3] = P .. 'l:' .. id
                to_set[n + 4] = life
                lives[id] = life
                add('all', id)
                add('f:' .. name, id)
                add(words[at + 7], id)
                owners[words[at + 7]] = true
                local waits_in = words[at + 8]
                if waits_in ~= '' then
                    add(waits_in, words[at + 9])
                    something_waits = true
                    if waits_in ~= 'a' then
                        waiting[name] = true
                    end
                end
                if words[at + 5] ~= '' then
                    for _, tag in ipairs(cjson.decode(words[at + 5])) do
                        add('y:' .. tag, id)
                    end
                end
                local field = words[at + 6]
                counts[field] = (counts[field] or 0) + 1
            end
        end
        answers[(at - first_task) / 10 + 1] = answer
    end
    -- Before the changes, which may be of these tasks.
    each_chunk(to_set, function(...) redis.call('MSET', ...) end)
    for set, members in pairs(added) do
        each_chunk(members, function(...) redis.call('ZADD', P .. set, ...) end)
    end
end

local function apply_changes()
    for at = first_change, first_note - 1, 11 do
        local id, expected, life, name, attempt, key, minute, ran_ms, status, owner_set, run_at = unpack(words, at, at + 10)
        local old = lives[id]
        local answer = 0
        if old and string.sub(old, 1, #expected) == expected then
            answer = 1
            local old_status, old_owner = string.match(old, '^(%a+) %d+ (%S+)')
            mark('o:' .. old_owner, id, false)
            if old_owner == '-' and old_status == 'pending' then
                local _, _, _, _, _, old_run_at = read_life(old)
                local priority = priority_of(id)
                mark('w:' .. name, due_place(priority, old_run_at, id), false)
                mark('a', ahead_place(priority, old_run_at, id, name), false)
            end
            count(old_status, name, -1)
            count(status, name, 1)
            lives[id] = life
            stored[id] = life
            if owner_set ~= '' then
                mark(owner_set, id, true)
                owners[owner_set] = true
            elseif status ~= 'success' then
                mark('s:' .. status, id, true)
            end
            if run_at ~= '' then
                something_waits = true
                if tonumber(run_at) <= now then
                    mark('w:' .. name, due_place(priority_of(id), run_at, id), true)
                    waiting[name] = true
                else
                    mark('a', ahead_place(priority_of(id), run_at, id, name), true)
                end
            end
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
        answers[n_tasks + (at - first_change) / 11 + 1] = answer
    end
end

-- The changes of a batch may be of its tasks; the tasks of a step may want keys that its changes free.
if is_step then
    if is_new then
        apply_changes()
    else
        for n = 1, n_changes do answers[n_tasks + n] = 1 end
    end
    add_tasks()
else
    add_tasks()
    apply_changes()
end

for n = 0, n_notes - 1 do
    local at = first_note + n * 4
    local id, epoch, place, json = unpack(words, at, at + 3)
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
    local entry = words[first_audit + n]
    local id = string.sub(entry, 1, 36)
    local known = redis.call('ZRANGEBYLEX', P .. 'u', '[' .. id, '(' .. id .. '\255', 'LIMIT', 0, 1)
    if #known == 0 then
        redis.call('ZADD', P .. 'u', 0, entry)
    end
end

for at = first_record, #words, 3 do
    local name, becomes = words[at], words[at + 2]
    if is_new and becomes ~= '=' then
        local version = redis.call('INCR', P .. 'rv')
        if becomes == '-' then
            redis.call('HDEL', P .. 'r', name)
            redis.call('ZREM', P .. 'rn', name)
        else
            redis.call('HSET', P .. 'r', name, string.format('%d', version) .. ' ' .. string.sub(becomes, 2))
            redis.call('ZADD', P .. 'rn', 0, name)
        end
        something_waits = true -- for whoever looks at records
    end
    local version = record_of(name)
    answers[#answers + 1] = version
end

to_set = {}
for id, life in pairs(stored) do
    to_set[#to_set + 1] = P .. 'l:' .. id
    to_set[#to_set + 1] = life
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
for set in pairs(owners) do
    if set ~= 'o:-' then
        local owner = string.sub(set, 3)
        redis.call('SADD', P .. 'os', owner)
        if redis.call('ZSCORE', P .. 'x', owner) then
            redis.call('SADD', P .. 'xo', owner)
        end
    end
end
for name in pairs(waiting) do
    redis.call('SADD', P .. 'wn', name)
end
if something_waits then
    if now > tonumber(redis.call('GET', P .. 'h') or '0') then
        redis.call('SET', P .. 'h', words[1])
    end
    redis.call('PUBLISH', P .. 'news', ARGV[1]) -- who need not be told
end
return answers
