-- What tasks have said.
local first_note, last_note = list()
local ids, epochs = {}, {}
for at = first_note, last_note, 4 do
    if not epochs[words[at]] then
        ids[#ids + 1] = words[at]
        epochs[words[at]] = 'unknown'
    end
end
look_at(ids)
for _, id in ipairs(ids) do
    local life = lives[id]
    epochs[id] = life and string.match(life, '^%a+ (%d+)')
    -- By what it has left behind, if it has ended.
    local late = life and string.sub(life, 1, 8) ~= 'running ' and said_late(life)
    if late then
        lives[id], stored[id] = late, late
    end
end

local lines_of = {} -- by task: its lines by where they stand, and where the first and the last of them do
for at = first_note, last_note, 4 do
    local id, text = words[at], words[at + 3]
    if epochs[id] ~= words[at + 1] then
        -- A superseded attempt has nothing to say.
    elseif words[at + 2] == 'P' then
        redis.call('SET', P .. 'q:' .. id, text)
    else
        local place, of = string.sub(text, 1, 20), lines_of[id]
        if not of then
            of = { lines = {}, first = place, last = place }
            lines_of[id] = of
        end
        of.lines[place] = of.lines[place] or text
        if place < of.first then of.first = place end
        if place > of.last then of.last = place end
    end
end
for id, of in pairs(lines_of) do
    local log, put, is_long = P .. 'g:' .. id, {}, false
    -- Those that were written before stay as they are.
    local known = redis.pcall('ZRANGEBYLEX', log, '[' .. of.first, '(' .. of.last .. '\255')
    for n = 1, #known do of.lines[string.sub(known[n], 1, 20)] = nil end
    for place, text in pairs(of.lines) do
        local at = #put
        put[at + 1], put[at + 2] = '0', text
        -- There is nothing to cut off before the very first line.
        is_long = is_long or string.sub(place, -2) == '00' and place ~= '00000000010000000000'
    end
    try(pcall(each_chunk, put, function(...) redis.call('ZADD', log, ...) end))
    if is_long then
        redis.pcall('ZREMRANGEBYRANK', log, '0', '-10001')
    end
end
