-- One new task that has no tags. What else WRITE has to look at does not exist, and that is most of what it would take
-- the server.
--
-- ARGV: session, generation, now, 1 if this is a cluster, function, status, owner or "-", set in which it waits or
-- nothing, place there, id, body, life, k-key and what it is to say or nothing twice. Answers with 0; or with nothing,
-- and has done nothing, if WRITE has to look closer.
local refused_for, latest = refusal(ARGV[1], ARGV[2])
if refused_for then
    return refused_for
end
local session, _, now, is_cluster, name, status, owner, waits_in, place, id, body, life, key, says = unpack(ARGV)
if owner ~= '-' and redis.call('SISMEMBER', P .. 'os', owner) == 0 then
    return false -- it holds something for the first time
end
local body_key, life_key = P .. 't:' .. id, P .. 'l:' .. id
if key == '' then
    key, says = life_key, life -- once more
end
if redis.call('MSETNX', body_key, body, life_key, life, key, says) == 0 then
    return false
end
if type(redis.pcall('HINCRBY', P .. 'c', status .. ' ' .. name, '1')) ~= 'number' then
    redis.call('DEL', body_key, life_key, key)
    return false -- what should be a sum is none
end
local function is_put(set, member)
    return type(redis.pcall('ZADD', P .. set, '0', member)) == 'number'
end
local is_due = waits_in ~= '' and waits_in ~= 'a'
if not (is_put('f:' .. name, id) and is_put('o:' .. owner, id) and (waits_in == '' or is_put(waits_in, place))
        and (not is_due or type(redis.pcall('SADD', P .. 'wn', name)) == 'number')) then
    redis.call('DEL', body_key, life_key, key)
    if redis.call('HINCRBY', P .. 'c', status .. ' ' .. name, '-1') == 0 then
        redis.call('HDEL', P .. 'c', status .. ' ' .. name)
    end
    return false -- a key is of another type
end
if waits_in ~= '' then
    if is_due and tonumber(now) > latest then
        redis.call('SET', P .. 'h', now)
    end
    publish(session, is_cluster)
end
return 0
