-- What tasks have said.
local first_note, last_note = list()
local ids = {}
for at = first_note, last_note, 4 do ids[#ids + 1] = words[at] end
look_at(ids)
for at = first_note, last_note, 4 do
    local id, epoch, place, json = unpack(words, at, at + 3)
    local life = lives[id]
    if life and string.match(life, '^%a+ (%d+)') == epoch then
        if place == 'P' then
            redis.call('SET', P .. 'q:' .. id, json)
        else
            local lines, prefix = P .. 'g:' .. id, string.sub(place, 2)
            local known = redis.pcall('ZRANGEBYLEX', lines, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', '0', '1')
            if #known == 0 then
                try(pcall(redis.call, 'ZADD', lines, '0', prefix .. json))
                if string.sub(prefix, -2) == '00' then
                    redis.pcall('ZREMRANGEBYRANK', lines, '0', '-10001')
                end
            end
        end
    end
end
