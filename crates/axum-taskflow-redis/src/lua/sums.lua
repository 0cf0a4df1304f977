-- Adds to a number in a hash. What was no number begins anew, and then the second answer is true: the rest of a script is
-- not to be left undone for a sum.
local function add_to(hash, field, n)
    local sum = redis.pcall('HINCRBY', hash, field, n)
    if type(sum) == 'number' then
        return sum, false
    end
    redis.call('HSET', hash, field, n)
    redis.log(redis.LOG_WARNING, hash .. ' had no number in ' .. field .. ', which begins anew')
    return n, true
end

-- So many tasks ended in a minute, and ran for so many milliseconds together. It fails as a whole.
local function add_end(minute, field, n, ran_ms)
    local sums = P .. 'm:' .. minute
    if add_to(sums, 'n ' .. field, n) == n then
        local is_known = redis.pcall('ZADD', P .. 'ms', minute, minute) -- they may be the first of this minute
        if type(is_known) ~= 'number' then
            redis.call('HDEL', sums, 'n ' .. field) -- with it goes a minute that nobody would find to delete
            error(is_known)
        end
    end
    if ran_ms ~= '0' then
        add_to(sums, 't ' .. field, ran_ms)
    end
end
