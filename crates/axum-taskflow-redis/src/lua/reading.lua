-- The bodies of tasks up to the last one that an answer has room for, and how many these are. Not all are read first:
-- they may be large.
local function bodies_with_room(ids, lives)
    local bodies, bytes = {}, 0
    for first = 1, #ids, 64 do
        local names, n_names = {}, math.min(64, #ids - first + 1)
        for n = 1, n_names do names[n] = P .. 't:' .. ids[first + n - 1] end
        local part = redis.call('MGET', unpack(names))
        for n = 1, n_names do
            local at, body = first + n - 1, part[n]
            bytes = bytes + #(body or '') + #(lives[at] or '')
            if at > 1 and bytes > BYTES_MAX then
                return bodies, at - 1
            end
            bodies[at] = body
        end
    end
    return bodies, #ids
end

-- What tasks have said of how far they are, by id; none has whose life has this beginning.
local function progress_of(ids, lives, beginning_of_new)
    local asked, progress = {}, {}
    for n, id in ipairs(ids) do
        if string.sub(lives[n] or '', 1, #beginning_of_new) ~= beginning_of_new then
            asked[#asked + 1] = id
        end
    end
    for n, said in ipairs(get_all('q:', asked)) do progress[asked[n]] = said end
    return progress
end

-- The first lines, and as much of what follows as is needed.
local function beginning(name, bytes)
    local text = redis.call('GETRANGE', name, '0', bytes + 4096)
    if #text > bytes + 4096 then
        local _, line = string.find(text, '\n', 1, true)
        local _, rest = string.find(text, '\n', (line or #text) + 1, true)
        if not rest or #text - rest < bytes then
            return redis.call('GET', name)
        end
    end
    return text
end

-- The sets in which all tasks are, each in one of them.
local function sets_of_all()
    local sets, seen = {}, {}
    for _, field in ipairs(redis.call('HKEYS', P .. 'c')) do
        local name = string.match(field, '^%a+ (.*)$')
        if name and not seen[name] then
            seen[name] = true
            sets[#sets + 1] = 'f:' .. name
        end
    end
    return sets
end

-- The first ids of several sets that have none in common, or the last ones if it is a command that goes back. The sets
-- are merged: the one whose next id comes first is on top of a heap. Of each no more is read than its share, and of one
-- that gives more, the double each time. If they are several, the second answer is the set of each id.
local function first_ids(command, sets, from, to, limit)
    if #sets == 1 then
        return redis.call(command, P .. sets[1], from, to, 'LIMIT', '0', limit)
    end
    local goes_back = command == 'ZREVRANGEBYLEX'
    local function comes_before(one, other)
        if goes_back then
            return one.first > other.first
        end
        return one.first < other.first
    end
    local function read(queue)
        queue.ids = redis.call(command, P .. queue.set, queue.from, to, 'LIMIT', '0', queue.part)
        queue.at, queue.first = 1, queue.ids[1]
    end
    local heap = {}
    for _, set in ipairs(sets) do
        local queue = { set = set, from = from, part = math.ceil(limit / #sets) }
        read(queue)
        if queue.first then
            heap[#heap + 1] = queue
        end
    end
    table.sort(heap, comes_before)
    local ids, sets_of_ids, size = {}, {}, #heap
    while #ids < limit and size > 0 do
        local queue = heap[1]
        ids[#ids + 1] = queue.first
        sets_of_ids[#ids] = queue.set
        queue.at = queue.at + 1
        if queue.at > queue.part then
            queue.from, queue.part = '(' .. queue.first, math.min(limit - #ids, queue.part * 2)
            read(queue)
        else
            queue.first = queue.ids[queue.at]
        end
        if not queue.first then
            queue = heap[size]
            heap[size], size = nil, size - 1
        end
        local at, child = 1, 2
        while child <= size do
            if child < size and comes_before(heap[child + 1], heap[child]) then
                child = child + 1
            end
            if not comes_before(heap[child], queue) then
                break
            end
            heap[at], at, child = heap[child], child, child * 2
        end
        heap[at] = queue
    end
    return ids, sets_of_ids
end

-- The line of JSON of what a task is; nothing if it cannot be read.
local function meta_of(id)
    local meta = string.match(beginning(P .. 't:' .. id, 0), '^%x+\n([^\n]*)\n')
    local is_read, read = pcall(cjson.decode, meta or '')
    return is_read and type(read) == 'table' and type(read.name) == 'string' and read or nil
end
