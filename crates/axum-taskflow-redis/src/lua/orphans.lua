-- Finds tasks whose owner is gone: Backend::orphans. ARGV: how many at most, then owners, each with an id behind which its
-- tasks are looked for. Answers with owners, each with a list: of each of its tasks, by id, the id, life, body and
-- progress. A life or a body that is not there is empty. There may be more although there is no answer.
--
-- Who did not beat for its lease is gone from here on, whatever it does later.
local ids = redis.call('HKEYS', P .. 'i')
local names = {}
for n, id in ipairs(ids) do names[n] = P .. 'i:' .. id end
local alive = 0
each_chunk(names, function(...) alive = alive + redis.call('EXISTS', ...) end)
if alive < #ids then
    for n, id in ipairs(ids) do
        if redis.call('EXISTS', names[n]) == 0 and not redis.call('ZSCORE', P .. 'x', id) then
            bury_later(id)
        end
    end
end
local limit, behind = tonumber(ARGV[1]), {}
for at = 2, #ARGV, 2 do behind[ARGV[at]] = '(' .. ARGV[at + 1] end
local orphans, owners, lives, n_as_made = {}, {}, {}, 0
for _, owner in ipairs(redis.call('SMEMBERS', P .. 'xo')) do
    if #orphans == limit then
        break
    end
    local from = behind[owner] or '-'
    local part = redis.call('ZRANGEBYLEX', P .. 'o:' .. owner, from, '+', 'LIMIT', '0', limit - #orphans)
    local of_part = get_all('l:', part)
    local as_made = 'pending 0 ' .. owner .. ' 0 0 ' -- as most are: it is cheaper to say how than to read it
    for n, id in ipairs(part) do
        local status, holder
        if string.sub(of_part[n] or '', 1, #as_made) == as_made then
            n_as_made = n_as_made + 1
        else
            status, holder = string.match(of_part[n] or '', '^(%a+) %d+ (%S+) %d+ %d+ %d+ ')
        end
        -- What is no task, or somebody else holds, or nobody: a call that failed half-way has left it here.
        local is_anothers = holder and holder ~= owner and (#holder == 36 or holder == '-' and status ~= 'running')
        if is_anothers or not of_part[n] and redis.call('EXISTS', P .. 't:' .. id) == 0 then
            redis.call('ZREM', P .. 'o:' .. owner, id)
        else
            local at = #orphans + 1
            orphans[at], owners[at], lives[at] = id, owner, of_part[n]
        end
    end
    if #part == 0 and redis.call('EXISTS', P .. 'o:' .. owner) == 0 then
        redis.call('SREM', P .. 'os', owner)
        redis.call('HDEL', P .. 'i', owner)
        redis.call('HDEL', P .. 'b', owner)
        redis.call('DEL', P .. 'cl:' .. owner)
        redis.call('SREM', P .. 'xo', owner) -- last: as long as it is there, it is looked at
    end
end
local are_as_made = n_as_made == #orphans -- before some are left out
local bodies, n_brought = bodies_with_room(orphans, lives) -- the next call brings the others
for n = n_brought + 1, #orphans do orphans[n] = nil end
local progress = are_as_made and {} or progress_of(orphans, lives, 'pending 0 ')
local answer, tasks = {}, nil
for n, id in ipairs(orphans) do
    if owners[n] ~= owners[n - 1] then
        tasks = {}
        answer[#answer + 1] = owners[n]
        answer[#answer + 1] = tasks
    end
    local at = #tasks
    tasks[at + 1], tasks[at + 2], tasks[at + 3] = id, lives[n] or '', bodies[n] or ''
    tasks[at + 4] = progress[id] or false
end
return answer
