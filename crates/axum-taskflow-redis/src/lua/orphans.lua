-- Finds tasks whose owner is gone: Backend::orphans. ARGV: how many at most. Answers as claim.lua, without the time.
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
local limit = tonumber(ARGV[1])
local orphans, bytes = {}, 0
for _, owner in ipairs(redis.call('SMEMBERS', P .. 'xo')) do
    if #orphans >= limit then
        break
    end
    local part = redis.call('ZRANGE', P .. 'o:' .. owner, 0, limit - #orphans - 1)
    for _, id in ipairs(part) do
        bytes = bytes + redis.call('STRLEN', P .. 't:' .. id)
        if #orphans > 0 and bytes > BYTES_MAX then
            limit = 0 -- the next call brings them
            break
        end
        orphans[#orphans + 1] = id
    end
    if #part == 0 and limit > 0 then
        redis.call('SREM', P .. 'xo', owner)
        redis.call('SREM', P .. 'os', owner)
        redis.call('HDEL', P .. 'i', owner)
        redis.call('HDEL', P .. 'b', owner)
        redis.call('DEL', P .. 'cl:' .. owner)
    end
end
local lives, bodies, progress = get_all('l:', orphans), get_all('t:', orphans), get_all('q:', orphans)
local answer = {}
for n, id in ipairs(orphans) do
    if lives[n] and bodies[n] then
        answer[#answer + 1] = id
        answer[#answer + 1] = lives[n]
        answer[#answer + 1] = bodies[n]
        answer[#answer + 1] = progress[n]
    end
end
return answer
