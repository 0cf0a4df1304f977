-- Gives tasks that nobody holds to an instance, and begins them: Backend::claim.
--
-- ARGV: session, generation, owner, now, limit, the number of this claim, that of the last one of this owner whose answer
-- was heard, how many ids are left out, those, then the names of functions. Answers with the next time at which something is due or nothing, then for each
-- task id, life, body and progress.
if is_late(ARGV[1], ARGV[2]) then
    return LATE
end
if is_empty() then
    return EMPTY
end
local owner, now, limit = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local number, heard = tonumber(ARGV[6]), tonumber(ARGV[7])
local n_except = tonumber(ARGV[8])
local except, wanted = {}, {}
for n = 9, 8 + n_except do except[ARGV[n]] = true end
for n = 9 + n_except, #ARGV do wanted[ARGV[n]] = true end
local now_text = string.format('%015d', now)

-- What has become due is moved to the others; a bounded part, earliest first.
local latest = tonumber(redis.call('GET', P .. 'h') or '0')
local due = redis.call('ZRANGEBYLEX', P .. 'a', '-', '(' .. string.format('%015d', now + 1), 'LIMIT', 0, math.max(1000, limit))
for _, place in ipairs(due) do
    local run_at, priority = string.sub(place, 1, 15), string.sub(place, 16, 23)
    local id, name = string.sub(place, 24, 59), string.sub(place, 60)
    mark('a', place, false)
    mark('w:' .. name, priority .. run_at .. id, true)
    redis.call('SADD', P .. 'wn', name)
end
if #due > 0 then
    write_marks()
    marks = {}
end
if now > latest then
    redis.call('SET', P .. 'h', ARGV[4])
end

local function next_due()
    local first = redis.call('ZRANGEBYLEX', P .. 'a', '[' .. string.format('%015d', now + 1), '+', 'LIMIT', 0, 1)[1]
    local next = first and string.sub(first, 1, 15)
    if now < latest then
        -- A clock was set back, or runs late: what was due may be ahead again.
        for _, name in ipairs(redis.call('SMEMBERS', P .. 'wn')) do
            local places = redis.call('ZRANGEBYLEX', P .. 'w:' .. name, '-', '+', 'LIMIT', 0, 128)
            for _, place in ipairs(places) do
                local run_at = string.sub(place, 9, 23)
                if run_at > now_text and (not next or run_at < next) then
                    next = run_at
                end
            end
            if #places == 128 and (not next or next > string.format('%015d', latest)) then
                next = string.format('%015d', latest) -- too many to look at: then at the latest
            end
        end
    end
    return next or ''
end

if is_gone(owner) then
    return { next_due() }
end

-- Each claim leaves here what it took, under its number; "last" is the largest number. The answer to an earlier claim may
-- be lost: what it took is given again, as long as it is as it was left. What was heard of is not, whatever was lost
-- afterwards: it runs.
local claims = P .. 'cl:' .. owner
local ids, lives = {}, {}
if tonumber(redis.call('HGET', claims, 'last') or '0') <= heard then
    redis.call('DEL', claims)
else
    local earlier, last = redis.call('HGETALL', claims), 0
    for n = 1, #earlier, 2 do
        local id = earlier[n]
        local of, life = string.match(earlier[n + 1], '^(%d+) (.*)$')
        if life then -- and not "last"
            if tonumber(of) <= heard or redis.call('GET', P .. 'l:' .. id) ~= life then
                redis.call('HDEL', claims, id)
            elseif #ids < limit then
                ids[#ids + 1] = id
                lives[#ids] = life
                redis.call('HSET', claims, id, ARGV[6] .. ' ' .. life)
                last = math.max(last, number)
            else
                -- For the next claim: hearing of this one does not mean hearing of that.
                redis.call('HSET', claims, id, string.format('%d', number + 1) .. ' ' .. life)
                last = number + 1
            end
        end
    end
    redis.call('HSET', claims, 'last', string.format('%d', last))
end

if #ids < limit then
    local candidates = {}
    for _, name in ipairs(redis.call('SMEMBERS', P .. 'wn')) do
        if wanted[name] then
            local n_looked_at = limit - #ids + n_except
            if now < latest then
                n_looked_at = math.max(n_looked_at, 1000)
            end
            local places = redis.call('ZRANGEBYLEX', P .. 'w:' .. name, '-', '+', 'LIMIT', 0, n_looked_at)
            if #places == 0 then
                redis.call('SREM', P .. 'wn', name)
            end
            for _, place in ipairs(places) do
                if string.sub(place, 9, 23) <= now_text and not except[string.sub(place, 24)] then
                    candidates[#candidates + 1] = { place, name }
                end
            end
        end
    end
    table.sort(candidates, function(one, other) return one[1] < other[1] end)
    local taken, names = {}, {}
    for n = 1, math.min(limit - #ids, #candidates) do
        local place, name = candidates[n][1], candidates[n][2]
        local id = string.sub(place, 24)
        taken[n], names[n] = id, name
        mark('w:' .. name, place, false)
    end
    local found = get_all('l:', taken)
    local to_set, to_remember = {}, {}
    for n, id in ipairs(taken) do
        local life = found[n]
        if life then
            local _, epoch, _, attempt, crashes, run_at = read_life(life)
            if crashes == '0' then
                epoch = string.format('%d', math.min(tonumber(epoch) + 1, 4294967295))
                attempt = string.format('%d', math.min(tonumber(attempt) + 1, 4294967295))
                life = table.concat({ 'running', epoch, owner, attempt, crashes, run_at, owner, ARGV[4], '-\n\n' }, ' ')
                count('pending', names[n], -1)
                count('running', names[n], 1)
            else
                life = string.gsub(life, '^(%a+ %d+) %S+', '%1 ' .. owner)
            end
            mark('o:-', id, false)
            mark('o:' .. owner, id, true)
            to_set[#to_set + 1] = P .. 'l:' .. id
            to_set[#to_set + 1] = life
            to_remember[#to_remember + 1] = id
            to_remember[#to_remember + 1] = ARGV[6] .. ' ' .. life
            ids[#ids + 1] = id
            lives[#ids] = life
        end
    end
    if #to_set > 0 then
        redis.call('SADD', P .. 'os', owner)
        redis.call('HSET', claims, 'last', ARGV[6])
    end
    each_chunk(to_set, function(...) redis.call('MSET', ...) end)
    each_chunk(to_remember, function(...) redis.call('HSET', claims, ...) end)
    write_marks()
end

local answer = { next_due() }
if #ids > 0 then
    redis.call('EXPIRE', claims, 86400)
    local bodies, progress = get_all('t:', ids), get_all('q:', ids)
    for n, id in ipairs(ids) do
        if bodies[n] then
            answer[#answer + 1] = id
            answer[#answer + 1] = lives[n]
            answer[#answer + 1] = bodies[n]
            answer[#answer + 1] = progress[n]
        end
    end
end
return answer
