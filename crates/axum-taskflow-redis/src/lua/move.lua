-- One task that starts, or ends with success: as `add.lua`.
--
-- ARGV: session, generation, id, status, epoch and holder that are expected, function, status, life, minute of an end or
-- nothing, milliseconds, and of an end k-key with what it says from now on and for how long, as in `words.lua`. Answers
-- with 0; or with nothing, and has done nothing, if WRITE has to look closer.
local refused_for = refusal(ARGV[1], ARGV[2])
if refused_for then
    return refused_for
end
local _, _, id, old_status, epoch, holder, name, status, life, minute, ran_ms, key, says, left_ms =
    unpack(ARGV)
local life_key = P .. 'l:' .. id
local old, expected = redis.call('GET', life_key), old_status .. ' ' .. epoch .. ' ' .. holder .. ' '
if not old or string.find(old, expected, 1, true) ~= 1 then
    return false
end
local has_ended = minute ~= ''
if not has_ended and redis.call('SISMEMBER', P .. 'os', holder) == 0 then
    return false
end
local holder_of_key = key ~= '' and redis.pcall('GET', key)
if type(holder_of_key) == 'table' then
    return false -- it is of another type
end
local field = old_status .. ' ' .. name
local n_left = redis.pcall('HINCRBY', P .. 'c', field, '-1')
if type(n_left) ~= 'number' then
    return false -- what should be a sum is none
end
if n_left == 0 then
    redis.call('HDEL', P .. 'c', field) -- before the other sum, which may be the same one
end
if type(redis.pcall('HINCRBY', P .. 'c', status .. ' ' .. name, '1')) ~= 'number' then
    redis.call('HINCRBY', P .. 'c', field, '1')
    return false
end
if has_ended then
    if not pcall(add_end, minute, status .. ' ' .. name, 1, ran_ms) then
        redis.call('HINCRBY', P .. 'c', field, '1')
        redis.call('HINCRBY', P .. 'c', status .. ' ' .. name, '-1')
        return false -- a key is of another type
    end
    redis.pcall('ZREM', P .. 'o:' .. holder, id) -- in a key of another type it is not
end
redis.call('SET', life_key, life)
if holder_of_key and string.sub(holder_of_key, 1, 36) == id then
    if says == '' then
        redis.call('DEL', key)
    else
        redis.call('SET', key, says, 'PX', left_ms)
    end
end
return 0
