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

-- What names this run of the server: another one after a restart, and on a replica that took its place. And what it does
-- when it is full, if it says so: that may be set anew at any time, and otherwise on the replica.
local function server()
    local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
    return run or '', string.match(redis.call('INFO', 'memory'), 'maxmemory_policy:(%S+)') or ''
end
