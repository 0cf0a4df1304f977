-- Does everything in a batch, or takes a step: Backend::write, Backend::step.
--
-- ARGV: session, generation, and lists in MessagePack, which the server reads in half the time of as many arguments:
-- now, 1 if it is a step, and lists of
--   blocks:  new tasks that have much in common, at most 500, none twice. Of all: function, status, set of the owner,
--            set in which they wait or nothing. Then lists, laid out as commands take them: t-key, body, l-key, life
--            of each; 0, id of each; 0, place of each, if they wait; set, id of each tag; and, if it is not sure that
--            they are to be made, number in the batch, key (after "=") or nothing of each
--   moves:   starts, ends and releases that have much in common, at most 500, none twice. Of all: what is expected of
--            the life ("STATUS EPOCH "), who probably holds them (who has to, if they are released), function, status,
--            set of the owner or nothing if they have ended, minute of a terminal one or nothing. Then lists: l-key,
--            life of each; number among the changes, milliseconds of each or, if they are released, time for sorting
--   changes: number among the changes, id, what is expected of the life (as above; behind it "OWNER " if that
--            matters), life, function, past attempt as JSON or nothing, fate of the key ("F"KEY freed, "K"UNTIL" "KEY
--            kept, or nothing), minute and milliseconds of a terminal one, status, set of the owner or nothing, time
--            for sorting if it waits for anybody. Done after the moves
--   notes:   id, epoch, "L"line for sorting or "P", JSON
--   audit:   id and JSON in one
--   records: name, expected version, what becomes of it ("=" the same, "+"VALUE, or "-" gone)
-- and behind them 1 if this is a cluster, and what one argument had no room for.
-- Answers with what is not as it was asked for: the number and the holder (id and function) of the key for each task
-- that was not made, and the numbers of the changes that are stale; and with the version of each record. A step that is
-- stale is answered with nothing. A batch may arrive again, whole or in part: what was done is left as it is, and
-- answered as done.
local refused_for = refusal(ARGV[1], ARGV[2])
if refused_for then
    return refused_for
end
local packed = #ARGV > 4 and ARGV[3] .. table.concat(ARGV, '', 5) or ARGV[3]
local words = cmsgpack.unpack(packed)
local now, is_step = tonumber(words[1]), words[2] == '1'
local now_text = string.format('%015d', now)
local blocks, moves, changes, notes, audit, records = unpack(words, 3, 8)

local lives = {}

-- Looks at the tasks whose ids stand in a list, at `first` and from there on at each `width`; not at those it has seen.
local function look_at(list, first, width)
    local ids = {}
    for at = first, #list, width do ids[#ids + 1] = list[at] end
    for n, life in ipairs(get_all('l:', ids)) do
        lives[ids[n]] = lives[ids[n]] or life
    end
end

-- A step is taken if everything stands as it was seen. If not, but everything is as the step would leave it or one of its
-- tasks is there, it was taken before.
local is_new = true
if is_step then
    look_at(changes, 2, 12)
    local was_taken = true
    for at = 1, #records, 3 do
        local expects, becomes = records[at + 1], records[at + 2]
        local version, value = record_of(records[at])
        is_new = is_new and version == expects
        if expects == '0' and version ~= '0' then
            redis.call('ZADD', P .. 'rn', 0, records[at]) -- who saw none is to see it, also if damage took its name
        end
        if becomes == '=' then
            was_taken = was_taken and version == expects
        elseif becomes == '-' then
            was_taken = was_taken and version == '0'
        else
            was_taken = was_taken and value == string.sub(becomes, 2)
        end
    end
    for at = 1, #changes, 12 do
        local life, expected = lives[changes[at + 1]], changes[at + 2]
        is_new = is_new and life and string.sub(life, 1, #expected) == expected
        was_taken = was_taken and life == changes[at + 3]
    end
    if not is_new and not was_taken then
        for _, block in ipairs(blocks) do
            for at = 1, #block[5], 4 do
                was_taken = was_taken or redis.call('EXISTS', block[5][at]) == 1
            end
        end
    end
    if not is_new and not was_taken then
        return false
    end
end

local refused, stale, versions = {}, {}, {}
local owners, waiting, something_waits = {}, {}, false

-- The task that has the key and its function; or nothing, and the key is the new task's.
local function take_key(key, id, name)
    local key_name = P .. 'k:' .. key
    local holder = redis.call('GET', key_name)
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
    redis.call('SET', key_name, id .. ' - ' .. name)
    return nil
end

-- What of a block is to be made: not what is there already, nor what has a key that is taken.
local function what_is_new(name, values, members, places, tags, keys)
    local new_values, new_members, new_places, new_tags, is_made = {}, {}, {}, {}, {}
    for n = 1, #members, 2 do
        local id, value = members[n + 1], 2 * n - 1
        if redis.call('EXISTS', values[value + 2]) == 0 then
            local key, holder = keys[n + 1] or '', nil
            if key ~= '' then
                holder = take_key(string.sub(key, 2), id, name)
            end
            if holder then
                refused[#refused + 1] = keys[n]
                refused[#refused + 1] = holder
            else
                is_made[id] = true
                for at = value, value + 3 do new_values[#new_values + 1] = values[at] end
                for at = n, n + 1 do
                    new_members[#new_members + 1] = members[at]
                    new_places[#new_places + 1] = places[at]
                end
            end
        end
    end
    for at = 1, #tags, 2 do
        if is_made[tags[at + 1]] then
            new_tags[#new_tags + 1] = tags[at]
            new_tags[#new_tags + 1] = tags[at + 1]
        end
    end
    return new_values, new_members, new_places, new_tags
end

local function add_block(name, status, owner_set, waits_in, values, members, places, tags, keys)
    -- All of them or, if one is there already, none: then it is looked at which.
    if #keys > 0 or redis.call('MSETNX', unpack(values)) == 0 then
        values, members, places, tags = what_is_new(name, values, members, places, tags, keys)
        if #values == 0 then
            return
        end
        redis.call('MSET', unpack(values))
    end
    redis.call('ZADD', P .. 'f:' .. name, unpack(members))
    redis.call('ZADD', P .. owner_set, unpack(members))
    owners[owner_set] = true
    if waits_in ~= '' then
        redis.call('ZADD', P .. waits_in, unpack(places))
        something_waits = true
        if waits_in ~= 'a' then
            waiting[name] = true
        end
    end
    for at = 1, #tags, 2 do
        redis.call('ZADD', P .. 'y:' .. tags[at], 0, tags[at + 1])
    end
    count(status, name, #members / 2)
end

local minutes = {}

local function count_end(minute, status, name, n, ran_ms)
    local sums = minutes[minute]
    if not sums then
        sums = {}
        minutes[minute] = sums
    end
    local field = status .. ' ' .. name
    local sum = sums[field]
    if not sum then
        sum = { 0, 0 }
        sums[field] = sum
    end
    sum[1] = sum[1] + n
    sum[2] = sum[2] + ran_ms
end

local stored = {}

local function apply_change(number, id, expected, life, name, attempt, key, minute, ran_ms, status, owner_set, run_at)
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

-- The compare is of each task; what follows is done for all at once, if all stand and are held as expected.
local function apply_moves(expected, holder, name, status, owner_set, minute, values, numbers)
    local keys, ids = {}, {}
    for at = 1, #values, 2 do
        keys[#keys + 1] = values[at]
        ids[#ids + 1] = string.sub(values[at], -36)
    end
    local found = redis.call('MGET', unpack(keys))
    local prefix, ran_ms, are_as_expected = expected .. holder .. ' ', 0, true
    local are_released = owner_set == 'o:-'
    for n = 1, #found do
        are_as_expected = are_as_expected and found[n] and string.find(found[n], prefix, 1, true) == 1
        ran_ms = minute == '' and 0 or ran_ms + numbers[2 * n]
    end
    if not are_as_expected then
        for n, id in ipairs(ids) do
            lives[id] = found[n]
            local number, life, last = numbers[2 * n - 1], values[2 * n], numbers[2 * n]
            if are_released then
                apply_change(number, id, prefix, life, name, '', '', '', 0, status, owner_set, last)
            else
                apply_change(number, id, expected, life, name, '', '', minute, last, status, owner_set, '')
            end
        end
        return
    end
    redis.call('MSET', unpack(values))
    if owner_set ~= 'o:' .. holder then
        redis.call('ZREM', P .. 'o:' .. holder, unpack(ids))
    end
    if are_released then
        local members, due, ahead = {}, {}, {}
        for n, id in ipairs(ids) do
            local at, run_at = 2 * n, numbers[2 * n]
            members[at - 1], members[at] = '0', id
            if run_at <= now_text then
                at = #due
                due[at + 1], due[at + 2] = '0', priority_of(id) .. run_at .. id
            else
                at = #ahead
                ahead[at + 1], ahead[at + 2] = '0', run_at .. priority_of(id) .. id .. name
            end
        end
        redis.call('ZADD', P .. owner_set, unpack(members))
        if #due > 0 then
            redis.call('ZADD', P .. 'w:' .. name, unpack(due))
            waiting[name] = true
        end
        if #ahead > 0 then
            redis.call('ZADD', P .. 'a', unpack(ahead))
        end
        something_waits = true
    elseif owner_set ~= '' then
        owners[owner_set] = true
    end
    count(string.match(expected, '^%a+'), name, -#ids)
    count(status, name, #ids)
    if minute ~= '' then
        count_end(minute, status, name, #ids, ran_ms)
    end
end

local function add_blocks()
    for _, block in ipairs(blocks) do add_block(unpack(block)) end
end

local function apply_changes()
    for _, alike in ipairs(moves) do apply_moves(unpack(alike)) end
    look_at(changes, 2, 12)
    for at = 1, #changes, 12 do apply_change(unpack(changes, at, at + 11)) end
end

-- The changes of a batch may be of its tasks; the tasks of a step may want keys that its changes free.
if is_step then
    if is_new then
        apply_changes()
    end
    add_blocks()
else
    add_blocks()
    apply_changes()
end

look_at(notes, 1, 4)
for at = 1, #notes, 4 do
    local id, epoch, place, json = unpack(notes, at, at + 3)
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

for _, entry in ipairs(audit) do
    local id = string.sub(entry, 1, 36)
    local known = redis.call('ZRANGEBYLEX', P .. 'u', '[' .. id, '(' .. id .. '\255', 'LIMIT', 0, 1)
    if #known == 0 then
        redis.call('ZADD', P .. 'u', 0, entry)
    end
end

-- Larger than all before, also than those that a server gave before it lost its last writes: whoever holds something
-- under one of those must not take the next holder's for his own.
local function new_version()
    local time = redis.call('TIME')
    local version = math.max(number_or_0(redis.call('GET', P .. 'rv')) + 1, time[1] * 1000 + math.floor(time[2] / 1000))
    redis.call('SET', P .. 'rv', string.format('%d', version))
    return version
end

for at = 1, #records, 3 do
    local name, becomes = records[at], records[at + 2]
    if is_new and becomes ~= '=' then
        local version = new_version()
        if becomes == '-' then
            redis.call('HDEL', P .. 'r', name)
            redis.call('ZREM', P .. 'rn', name)
        else
            redis.call('HSET', P .. 'r', name, string.format('%d', version) .. ' ' .. string.sub(becomes, 2))
            redis.call('ZADD', P .. 'rn', 0, name)
        end
        something_waits = true -- for whoever looks at records
    end
    versions[#versions + 1] = record_of(name)
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
        if add_to(P .. 'm:' .. minute, 'n ' .. field, sum[1]) == sum[1] then
            redis.call('ZADD', P .. 'ms', minute, minute) -- it may be the first of this minute
        end
        if sum[2] > 0 then
            add_to(P .. 'm:' .. minute, 't ' .. field, string.format('%d', sum[2]))
        end
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
    if now > number_or_0(redis.call('GET', P .. 'h')) then
        redis.call('SET', P .. 'h', words[1])
    end
    publish(ARGV[1], ARGV[4]) -- who need not be told
end
return { refused, stale, versions }
