-- Gives tasks that nobody holds to an instance, and begins them: Backend::claim.
--
-- ARGV: session, generation, owner, now, limit, the turn from which on room is kept or nothing, for how many, the number
-- of this claim, the number of the owner's last claim whose answer was heard, how many ids are left out, those, then the
-- names of functions. Answers with the next time at which something is due (now if it is to be asked again) or nothing,
-- the turn of the first task that was left or nothing, then for each task id, life, body and progress.
local refused_for, latest = refusal(ARGV[1], ARGV[2])
if refused_for then
    return refused_for
end
local owner, now, limit = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local kept_from, n_kept, next_turn = ARGV[6], tonumber(ARGV[7]), ''
local number, heard, n_except = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
local except, wanted = {}, {}
for n = 11, 10 + n_except do except[ARGV[n]] = true end
for n = 11 + n_except, #ARGV do wanted[ARGV[n]] = true end
local now_text = string.format('%015d', now)

-- What has become due is moved to the others; a bounded part, earliest first.
local due_max = math.max(1000, limit)
local due = redis.call('ZRANGEBYLEX', P .. 'a', '-', '(' .. string.format('%015d', now + 1), 'LIMIT', '0', due_max)
for _, place in ipairs(due) do
    local run_at, priority = string.sub(place, 1, 15), string.sub(place, 16, 23)
    local id, name = string.sub(place, 24, 59), string.sub(place, 60)
    mark('w:' .. name, priority .. run_at .. id, true)
    redis.call('SADD', P .. 'wn', name)
end
if #due > 0 then
    put_marks()
    redis.call('ZREMRANGEBYLEX', P .. 'a', '-', '[' .. due[#due]) -- all that were found
end
if now > latest then
    redis.call('SET', P .. 'h', ARGV[4])
end

local function next_due()
    if #due == due_max then
        return now_text -- there are more, and this claim may know none of those that were moved
    end
    local first = redis.call('ZRANGEBYLEX', P .. 'a', '[' .. string.format('%015d', now + 1), '+', 'LIMIT', '0', '1')[1]
    local next = first and string.sub(first, 1, 15)
    if now < latest then
        -- A clock was set back, or runs late: what was due may be ahead again.
        local n_left, is_all, is_any_ahead = 512, true, false
        for _, name in ipairs(redis.call('SMEMBERS', P .. 'wn')) do
            local n_looked_at = math.min(n_left, 128)
            if n_looked_at == 0 then
                is_all = false
                break
            end
            local places = redis.call('ZRANGEBYLEX', P .. 'w:' .. name, '-', '+', 'LIMIT', '0', n_looked_at)
            n_left = n_left - #places
            is_all = is_all and #places < n_looked_at
            for _, place in ipairs(places) do
                local run_at = string.sub(place, 9, 23)
                if run_at > now_text then
                    is_any_ahead = true
                    if not next or run_at < next then
                        next = run_at
                    end
                end
            end
        end
        local latest_text = string.format('%015d', latest)
        if not is_all and (not next or next > latest_text) then
            next = latest_text -- too many to look at: then at the latest
        elseif is_all and not is_any_ahead then
            redis.call('SET', P .. 'h', ARGV[4]) -- whoever was ahead has left nothing
        end
    end
    return next or ''
end

if is_gone(owner) then
    return { next_due(), '' }
end

-- A claim leaves here its number and what it gave. Its answer may be lost: then the next one of these functions gives that
-- again, as long as the owner still holds it, and leaves behind the bar what it had no room for. What was heard of is not
-- given again, whatever was lost afterwards: it runs.
local claims = P .. 'cl:' .. owner
local ids, lives, no_room, unwanted, first_skipped = {}, {}, {}, {}, nil
local n_as_made = 0 -- of those that begin, how many say nothing but that
local record = redis.call('GET', claims)
local bar = string.find(record or '', '|', 1, true)
local last = bar and string.match(record, '^(%d+) ')
if last then
    local given, left = string.sub(record, #last + 2, bar - 1), string.sub(record, bar + 1)
    local earlier = {}
    if tonumber(last) > heard then
        for id in string.gmatch(given, '%S+') do earlier[#earlier + 1] = id end
    end
    for id in string.gmatch(left, '%S+') do earlier[#earlier + 1] = id end
    for n, life in ipairs(get_all('l:', earlier)) do
        local status, _, holder = read_life(life or '')
        local meta = meta_of(earlier[n])
        if holder ~= owner or (status ~= 'running' and status ~= 'pending') then
            -- It was taken from the owner, or deleted.
        elseif meta and not wanted[meta.name] then
            unwanted[#unwanted + 1] = earlier[n]
        elseif #ids < limit then
            ids[#ids + 1] = earlier[n]
            lives[#ids] = life
        else
            no_room[#no_room + 1] = earlier[n]
        end
    end
end

local function one_more(number)
    return number and math.min(number + 1, 4294967295)
end

if #ids < limit then
    local places, name_of, found_of, n_names, first_name = {}, {}, {}, 0, nil

    local function add_due(name, found, first)
        for at = first, #found do
            local place = found[at]
            local run_at = string.sub(place, 9, 23)
            -- Nobody waits where there is no time, and there it would stand in the way for ever.
            local is_due = run_at <= now_text or not string.find(run_at, '^%d+$')
            if is_due and not (n_except > 0 and except[string.sub(place, 24)]) then
                places[#places + 1] = place
                if name ~= first_name then name_of[place] = name end
            end
        end
    end

    for _, name in ipairs(redis.call('SMEMBERS', P .. 'wn')) do
        if wanted[name] then
            n_names, first_name = n_names + 1, first_name or name
            local n_looked_at, n_before = limit - #ids + n_except, #places
            local found = redis.call('ZRANGEBYLEX', P .. 'w:' .. name, '-', '+', 'LIMIT', '0', n_looked_at)
            if #found == 0 then
                redis.call('SREM', P .. 'wn', name)
            end
            add_due(name, found, 1)
            -- A clock was set back, or runs late: what is ahead may lie before what is due. Clocks differ by milliseconds
            -- all the time, so it is not looked for before it is met.
            if now < latest and #found == n_looked_at and #places - n_before < limit - #ids then
                found = redis.call('ZRANGEBYLEX', P .. 'w:' .. name, '-', '+', 'LIMIT', '0', math.max(n_looked_at, 1000))
                add_due(name, found, n_looked_at + 1)
            end
            found_of[name] = found
        end
    end
    if n_names > 1 then
        table.sort(places)
    end
    local taken, n_taken, of_names = {}, math.min(limit - #ids, #places), {}

    local keeps_room = kept_from ~= ''
    local function has_no_room(nth, place)
        return place >= kept_from and nth + n_kept > limit
    end

    for n = 1, n_taken do
        taken[n] = string.sub(places[n], 24)
        if keeps_room and has_no_room(#ids + n, places[n]) then
            break -- it is looked at whether anybody waits there
        end
    end
    local found, keys = get_all('l:', taken)
    -- What an id begins with is when its task was created: none begins before that (Life::begun).
    local latest_id = string.format('%08x-%04x', math.floor(now / 65536), now % 65536) .. '~'
    local to_set, held, left, begun = {}, {}, {}, {} -- left: nobody's no more
    local as_made_of = {} -- by when they are due: how one stands that nobody has touched, and how once it has begun
    for n, id in ipairs(taken) do
        local life, place = found[n] or '', places[n]
        local name = name_of[place] or first_name
        local status, epoch, attempt, crashes, run_at = 'pending', '1', '1', '0', nil
        -- Most are as they were made: it is cheaper to say how than to read it, and once for all of a millisecond.
        local due_at = string.sub(place, 9, 23)
        local as_made = as_made_of[due_at]
        if as_made == nil then
            as_made = false
            if string.sub(due_at, 1, 2) == '00' then -- a time has thirteen digits until 2286
                local ms = string.sub(due_at, 3)
                as_made = {
                    run_at = ms,
                    waits = 'pending 0 - 0 0 ' .. ms .. ' - - -\n\n',
                    begun = 'running 1 ' .. owner .. ' 1 0 ' .. ms .. ' ' .. owner .. ' ' .. ARGV[4] .. ' -\n\n',
                }
            end
            as_made_of[due_at] = as_made
        end
        local waits = as_made and life == as_made.waits
        local begins_as_made = waits and id <= latest_id
        run_at = as_made and as_made.run_at
        if not waits then
            local holder, finished_at
            status, epoch, holder, attempt, crashes, run_at, finished_at =
                string.match(life, '^(%a+) (%d+) (%S+) (%d+) (%d+) (%d+) %S+ %S+ (%S+)')
            -- What cannot be read is claimed: who has it says so.
            local is_free = life ~= '' and (not status or holder == '-' and (status == 'pending' or finished_at == '-'))
            waits = is_free and (not run_at or tonumber(run_at) == tonumber(due_at))
            epoch, attempt = one_more(epoch), one_more(attempt)
        end
        if waits and keeps_room and has_no_room(#ids + 1, place) then
            next_turn = place
            break
        end
        local of_name = of_names[name]
        if not of_name then
            of_name = {}
            of_names[name] = of_name
        end
        of_name[#of_name + 1] = place
        if not waits then
            first_skipped = first_skipped or place -- nobody waits there
            if life == '' then left[#left + 1] = id end
        else
            if begins_as_made then
                life, n_as_made = as_made.begun, n_as_made + 1
                begun[name] = (begun[name] or 0) + 1
            elseif status == 'pending' and crashes == '0' then
                local started_at = ARGV[4]
                if id > latest_id then
                    local high, low = tonumber(string.sub(id, 1, 8), 16), tonumber(string.sub(id, 10, 13), 16)
                    if high and low and high * 65536 + low <= now + 100 then
                        started_at = string.format('%.0f', high * 65536 + low)
                    end
                end
                life = 'running ' .. epoch .. ' ' .. owner .. ' ' .. attempt .. ' 0 ' .. run_at .. ' '
                    .. owner .. ' ' .. started_at .. ' -\n\n'
                begun[name] = (begun[name] or 0) + 1
            elseif status == 'pending' then
                life = string.gsub(life, '^(%a+ %d+) %S+', '%1 ' .. owner)
            end
            local at = #ids + 1
            ids[at], lives[at] = id, life
            left[#left + 1] = id
            at = #held
            held[at + 1], held[at + 2] = '0', id
            to_set[at + 1], to_set[at + 2] = keys[n], life
        end
    end
    if #to_set > 0 then
        redis.call('SADD', P .. 'os', owner)
    end
    for name, n in pairs(begun) do
        count('pending', name, -n)
        count('running', name, n)
    end
    -- First what may fail, where a key is of another type: else they would be nobody's.
    each_chunk(held, function(...) redis.call('ZADD', P .. 'o:' .. owner, ...) end)
    if #held > 2 then
        make_skip_list('o:' .. owner)
    end
    write_counts()
    each_chunk(to_set, function(...) redis.call('MSET', ...) end)
    each_chunk(left, function(...) redis.pcall('ZREM', P .. 'o:-', ...) end)
    for name, of_name in pairs(of_names) do
        local last = of_name[#of_name]
        if last == found_of[name][#of_name] then
            -- The first ones there, as nearly always: they go together, without being looked for one by one.
            redis.call('ZREMRANGEBYLEX', P .. 'w:' .. name, '-', '[' .. last)
        else
            each_chunk(of_name, function(...) redis.call('ZREM', P .. 'w:' .. name, ...) end)
        end
    end
end
local are_as_made = n_as_made == #ids -- before some are left out
local bodies, n_brought = bodies_with_room(ids, lives)
for n = n_brought + 1, #ids do
    no_room[#no_room + 1] = ids[n]
    ids[n] = nil
end
if #ids > 0 or #no_room > 0 or #unwanted > 0 then
    local left = table.concat(no_room, ' ') .. ' ' .. table.concat(unwanted, ' ')
    redis.call('SET', claims, number .. ' ' .. table.concat(ids, ' ') .. '|' .. left, 'EX', '86400')
elseif record then
    redis.call('DEL', claims)
end

for n, life in ipairs(get_all('l:', no_room)) do
    local _, _, _, _, _, run_at = read_life(life or '')
    if run_at then
        local place = due_place(priority_of(no_room[n]), run_at, no_room[n])
        if next_turn == '' or place < next_turn then
            next_turn = place
        end
    end
end

if first_skipped and (next_turn == '' or first_skipped < next_turn) then
    next_turn = first_skipped -- there may be more behind it
end

local answer = { (#no_room > 0 or first_skipped) and now_text or next_due(), next_turn }
if #ids > 0 then
    local progress = are_as_made and {} or progress_of(ids, lives, 'running 1 ') -- those begin now
    local at = #answer
    for n, id in ipairs(ids) do
        if bodies[n] then
            answer[at + 1], answer[at + 2], answer[at + 3] = id, lives[n], bodies[n]
            answer[at + 4] = progress[id] or false
            at = at + 4
        end
    end
end
return answer
