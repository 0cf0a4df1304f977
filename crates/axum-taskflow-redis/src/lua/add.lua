-- One new task that wants no key and has no tags. What else WRITE has to look at does not exist, and that is most of what
-- it would take the server.
--
-- ARGV: session, generation, now, 1 if this is a cluster, function, status, owner or "-", set in which it waits or nothing,
-- place there, id, body, life. Answers with 0; or with nothing, and has done nothing, if WRITE has to look closer.
local refused_for, latest = refusal(ARGV[1], ARGV[2])
if refused_for then
    return refused_for
end
local session, _, now, is_cluster, name, status, owner, waits_in, place, id, body, life = unpack(ARGV)
if owner ~= '-' and redis.call('SISMEMBER', P .. 'os', owner) == 0 then
    return false -- it holds something for the first time
end
local body_key, life_key = P .. 't:' .. id, P .. 'l:' .. id
if redis.call('MSETNX', body_key, body, life_key, life) == 0 then
    return false
end
if type(redis.pcall('HINCRBY', P .. 'c', status .. ' ' .. name, 1)) ~= 'number' then
    redis.call('DEL', body_key, life_key)
    return false -- what should be a sum is none
end
redis.call('ZADD', P .. 'f:' .. name, '0', id)
redis.call('ZADD', P .. 'o:' .. owner, '0', id)
if waits_in ~= '' then
    redis.call('ZADD', P .. waits_in, '0', place)
    if waits_in ~= 'a' then
        redis.call('SADD', P .. 'wn', name)
        if tonumber(now) > latest then
            redis.call('SET', P .. 'h', now)
        end
    end
    publish(session, is_cluster)
end
return 0
