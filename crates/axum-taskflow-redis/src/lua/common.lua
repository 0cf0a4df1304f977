-- What the scripts share. KEYS[1] is the prefix in braces: all keys lie in one slot of a cluster.
--
--   t:ID     what a task is: its priority for sorting, a line of JSON, its arguments. Never changes.
--   l:ID     how far it has come: status epoch owner attempt crashes run_at instance started_at finished_at and, of one
--            that has ended, '-' if it is in no set of a tag or else '+', '-' if there is no q, p and g of it or else '+';
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

-- Why a call must change nothing, if it must not. One that was given up may still arrive, after others that were made
-- since. And after FLUSHALL, or a failover to an empty server, nothing is written until somebody has joined again. If it may,
-- the second answer is the latest time that anything was due at.
local function refusal(session, generation)
    local name = P .. 'v:' .. session
    local found = redis.call('MGET', name, P .. 'meta', P .. 'h')
    if found[1] ~= generation then
        local known = number_or_0(found[1])
        if known > tonumber(generation) then
            return { err = 'LATE this call was given up, and others were made since' }
        end
        redis.call('SET', name, generation, 'EX', '86400')
    end
    if not found[2] then
        return { err = 'EMPTY all tasks in Redis are gone' }
    end
    return nil, number_or_0(found[3])
end

-- The values of such keys, and the keys.
local function get_all(kind, ids)
    local keys, values = {}, {}
    for n, id in ipairs(ids) do keys[n] = P .. kind .. id end
    for first = 1, #keys, CHUNK do
        local part = redis.call('MGET', unpack(keys, first, math.min(first + CHUNK - 1, #keys)))
        if #part == #keys then
            return part, keys
        end
        for n, value in ipairs(part) do values[first + n - 1] = value end
    end
    return values, keys
end

local function bury_later(id)
    redis.call('SCARD', P .. 'xo') -- who is gone and not there is never looked at: that fails first, if it does
    redis.call('ZADD', P .. 'x', redis.call('TIME')[1], id)
    redis.call('SADD', P .. 'xo', id)
end
