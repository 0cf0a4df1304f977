-- What the scripts share. KEYS[1] is the prefix in braces: all keys lie in one slot of a cluster.
--
--   t:ID     what a task is: its priority for sorting, a line of JSON, its arguments. Never changes.
--   l:ID     how far it has come: status epoch owner attempt crashes run_at instance started_at finished_at,
--            a line with its error as JSON, its result.
--   q:ID p:ID g:ID          its progress, its past attempts, its log lines
--   f:NAME s:STATUS y:TAG o:OWNER   ids, sorted: of a function (each task is in one of these), of those that ended
--                                   badly, of a tag (y:@TRACKING: of a request), of what somebody (or "-", nobody) holds
--   w:NAME wn a             what nobody holds: due, by function and in the order in which it is to run; the functions
--                           that have any; ahead, by time
--   k:KEY                   the task that has an idempotency key, until when, its function
--   c m:MINUTE ms u         counts, what ended in a minute, the minutes, audit entries
--   r rn rv                 records by name ("VERSION VALUE"), their names, the last version
--   os                      who may hold tasks
--   i b i:ID x xo           instances, their last beats, whether they live (expires by itself), who is gone, and who of
--                           these may still hold tasks
--   v:SESSION cl:OWNER h meta   which calls of a process count, what claims took whose answers may be lost, the latest
--                               time that anything was due at, which store this is
--   wait                        nothing: written so that a connection has something to wait for
--   none none2                  never there
local P = KEYS[1] .. ':'

-- While the slot moves to another node of a cluster, each of the two has a part of the keys. Both end a script here: one
-- for a key that it does not have, the other for several of which it does not have all. Else what is on the other node
-- would be taken for gone, and be made a second time.
redis.call('EXISTS', P .. 'none', P .. 'none2')

-- At most this many values to one command: Lua's stack is small.
local CHUNK = 2000

-- An answer brings no more than about so many bytes, and at least one task: a link has to carry it in time.
local BYTES_MAX = 4194304

local function each_chunk(list, call)
    for first = 1, #list, CHUNK do
        call(unpack(list, first, math.min(first + CHUNK - 1, #list)))
    end
end

-- Of what is no number nothing is known.
local function number_or_0(text)
    return tonumber(text or '') or 0
end

local EMPTY = { err = 'EMPTY all tasks in Redis are gone' }
local LATE = { err = 'LATE this call was given up, and others were made since' }

-- After FLUSHALL, or a failover to an empty server: nothing is written until somebody has joined again.
local function is_empty()
    return redis.call('EXISTS', P .. 'meta') == 0
end

-- Why a call must change nothing, if it must not. One that was given up may still arrive, after others that were made
-- since.
local function refusal(session, generation)
    local name = P .. 'v:' .. session
    local found = redis.call('MGET', name, P .. 'meta')
    local known = number_or_0(found[1])
    if known < tonumber(generation) then
        redis.call('SET', name, generation, 'EX', 86400)
    end
    if known > tonumber(generation) then
        return LATE
    end
    return not found[2] and EMPTY or nil
end

local function get_all(kind, ids)
    local values = {}
    for first = 1, #ids, CHUNK do
        local names = {}
        for n = first, math.min(first + CHUNK - 1, #ids) do
            names[#names + 1] = P .. kind .. ids[n]
        end
        local part = redis.call('MGET', unpack(names))
        for n = 1, #names do
            values[first + n - 1] = part[n]
        end
    end
    return values
end

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
    local text = redis.call('GETRANGE', name, 0, bytes + 4096)
    if #text > bytes + 4096 then
        local _, line = string.find(text, '\n', 1, true)
        local _, rest = string.find(text, '\n', (line or #text) + 1, true)
        if not rest or #text - rest < bytes then
            return redis.call('GET', name)
        end
    end
    return text
end

local function read_life(life)
    return string.match(life, '^(%a+) (%d+) (%S+) (%d+) (%d+) (%d+)')
end

-- What is to be in a sorted set and what not; the last word counts, and is written at the end.
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

-- Adds to a number in a hash. What was no number begins anew, and then the second answer is true: the rest of a script is
-- not to be left undone for a sum.
local function add_to(hash, field, n)
    local sum = redis.pcall('HINCRBY', hash, field, n)
    if type(sum) == 'number' then
        return sum, false
    end
    redis.log(redis.LOG_WARNING, hash .. ' had no number in ' .. field .. ', which begins anew')
    redis.call('HSET', hash, field, n)
    return n, true
end

-- Each task is in one set of its function, and counts in one of its fields: so much is left for this one.
local function count_anew(field)
    local name = string.match(field, '^%a+ (.*)$')
    local n, all = redis.call('ZCARD', P .. 'f:' .. name), redis.call('HGETALL', P .. 'c')
    for at = 1, #all, 2 do
        if all[at] ~= field and string.match(all[at], '^%a+ (.*)$') == name then
            n = n - number_or_0(all[at + 1])
        end
    end
    redis.call('HSET', P .. 'c', field, n)
end

local function write_marks()
    for set, members in pairs(marks) do
        local put, drop = {}, {}
        for member, present in pairs(members) do
            if present then
                put[#put + 1] = '0'
                put[#put + 1] = member
            else
                drop[#drop + 1] = member
            end
        end
        each_chunk(drop, function(...) redis.call('ZREM', P .. set, ...) end)
        each_chunk(put, function(...) redis.call('ZADD', P .. set, ...) end)
    end
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
    for _, field in ipairs(begun_anew) do count_anew(field) end
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
-- that gives more, the double each time.
local function first_ids(command, sets, from, to, limit)
    if #sets == 1 then
        return redis.call(command, P .. sets[1], from, to, 'LIMIT', 0, limit)
    end
    local goes_back = command == 'ZREVRANGEBYLEX'
    local function comes_before(one, other)
        if goes_back then
            return one.first > other.first
        end
        return one.first < other.first
    end
    local function read(queue)
        queue.ids = redis.call(command, P .. queue.set, queue.from, to, 'LIMIT', 0, queue.part)
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
    local ids, size = {}, #heap
    while #ids < limit and size > 0 do
        local queue = heap[1]
        ids[#ids + 1] = queue.first
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
    return ids
end

-- Where a task lies that waits for anybody: among those that are due, or ahead.
local function due_place(priority, run_at, id)
    return priority .. string.format('%015d', run_at) .. id
end

local function ahead_place(priority, run_at, id, name)
    return string.format('%015d', run_at) .. priority .. id .. name
end

local function priority_of(id)
    return redis.call('GETRANGE', P .. 't:' .. id, 0, 7)
end

-- The line of JSON of what a task is; nothing if it cannot be read.
local function meta_of(id)
    local meta = string.match(beginning(P .. 't:' .. id, 0), '^%x+\n([^\n]*)\n')
    local is_read, read = pcall(cjson.decode, meta or '')
    return is_read and type(read) == 'table' and type(read.name) == 'string' and read or nil
end

-- Version and value of a record; '0' if there is none. One that cannot be read is there all the same: it may say that
-- somebody holds a lock. It has the version 1, as no other (see `new_version`), so that who decides can delete it; and no
-- value.
local function record_of(name)
    local record = redis.call('HGET', P .. 'r', name)
    if not record then
        return '0', nil
    end
    local version, value = string.match(record, '^([1-9]%d*) (.*)$')
    if not version or #version > 16 then
        return '1', nil
    end
    return version, value
end

-- When an instance has beaten last; '0' if that is not known.
local function beat_of(id)
    local at = redis.call('HGET', P .. 'b', id)
    return at and #at <= 16 and string.match(at, '^%-?%d+$') or '0'
end

-- True if the instance was superseded, has left, did not beat for its lease, or is not known: all was flushed since it
-- joined, or a failover has lost that.
local function is_gone(id)
    return redis.call('ZSCORE', P .. 'x', id) or redis.call('EXISTS', P .. 'i:' .. id) == 0
        or redis.call('HEXISTS', P .. 'i', id) == 0
end

-- Tells other instances that something waits, if there are any. In a cluster a message goes to all nodes, unless it is one
-- of a slot; Redis 6.2 does not know those, and does not tell scripts its version either.
local function publish(message, is_cluster)
    if redis.call('HLEN', P .. 'i') < 2 then
        return
    end
    local how = is_cluster == '1' and redis.REDIS_VERSION_NUM and 'SPUBLISH' or 'PUBLISH'
    redis.call(how, P .. 'news', message)
end

-- What names this run of the server: another one after a restart, and on a replica that took its place.
local function run_of_server()
    return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
end

local function bury_later(id)
    redis.call('ZADD', P .. 'x', redis.call('TIME')[1], id)
    redis.call('SADD', P .. 'xo', id)
end

