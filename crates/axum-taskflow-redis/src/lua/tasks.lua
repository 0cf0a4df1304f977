local function read_life(life)
    return string.match(life, '^(%a+) (%d+) (%S+) (%d+) (%d+) (%d+)')
end

-- What is to be in a sorted set and what not; the last word counts, and is written at the end: what is put somewhere before
-- the states of tasks, since that fails where a key is of another type, and what is taken away behind them.
local marks = {}

local function mark(set, member, present)
    local members = marks[set]
    if not members then
        members = {}
        marks[set] = members
    end
    members[member] = present
end

local counts = {}

local function count(status, name, n)
    local field = status .. ' ' .. name
    counts[field] = (counts[field] or 0) + n
end

local function put_marks()
    for set, members in pairs(marks) do
        local put = {}
        for member, present in pairs(members) do
            if present then
                put[#put + 1] = '0'
                put[#put + 1] = member
            end
        end
        each_chunk(put, function(...) redis.call('ZADD', P .. set, ...) end)
    end
end

-- The rest, which does not fail: nothing lies in a key of another type.
local function drop_marks()
    for set, members in pairs(marks) do
        local drop = {}
        for member, present in pairs(members) do
            if not present then drop[#drop + 1] = member end
        end
        each_chunk(drop, function(...) redis.pcall('ZREM', P .. set, ...) end)
    end
end

local function write_counts()
    local begun_anew = {}
    for field, n in pairs(counts) do
        if n ~= 0 then
            local sum, is_anew = add_to(P .. 'c', field, n)
            if is_anew then
                begun_anew[#begun_anew + 1] = field
            elseif sum == 0 then
                redis.call('HDEL', P .. 'c', field)
            end
        end
    end
    -- Each task is in one set of its function, and counts in one of its fields: so much is left for this one.
    for _, field in ipairs(begun_anew) do
        local name = string.match(field, '^%a+ (.*)$')
        local n, all = redis.pcall('ZCARD', P .. 'f:' .. name), redis.call('HGETALL', P .. 'c')
        n = type(n) == 'number' and n or 0
        for at = 1, #all, 2 do
            if all[at] ~= field and string.match(all[at], '^%a+ (.*)$') == name then
                n = n - number_or_0(all[at + 1])
            end
        end
        redis.call('HSET', P .. 'c', field, n)
    end
end

-- Redis keeps a sorted set of up to 128 short members as a list, which it reads from its beginning for each member that is
-- put there or taken away: with a hundred, all that is done for a task took the server twice as long. A long member makes
-- a skip list of it, which it is until it is empty.
local function make_skip_list(set)
    local encoding = redis.pcall('OBJECT', 'ENCODING', P .. set)
    local is_list = encoding == 'listpack' or encoding == 'ziplist' -- the latter before Redis 7
    if is_list and redis.call('ZCARD', P .. set) >= 32 then
        local long = string.rep('~', 1024)
        redis.call('ZADD', P .. set, '0', long)
        redis.call('ZREM', P .. set, long)
    end
end

-- Where a task lies that waits for anybody: among those that are due, or ahead.
local function due_place(priority, run_at, id)
    return priority .. string.format('%015d', run_at) .. id
end

local function ahead_place(priority, run_at, id, name)
    return string.format('%015d', run_at) .. priority .. id .. name
end

local function priority_of(id)
    return redis.call('GETRANGE', P .. 't:' .. id, '0', '7')
end
