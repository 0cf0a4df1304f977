-- Whether a step is taken: it is, or it is not, as a whole.
local record, last_record = list()
local change, last_change = list() -- of `changes.lua`
local unexpected = {} -- only batches have such

-- A step is taken if everything stands as it was seen. If not, but everything is as the step would leave it or one of its
-- tasks is there, it was taken before.
local is_new, was_taken = true, true
local ids_of_step = {}
for at = change + 1, last_change, 15 do ids_of_step[#ids_of_step + 1] = words[at] end
look_at(ids_of_step)
for at = record, last_record, 3 do
    local expects, becomes = words[at + 1], words[at + 2]
    local version, value = record_of(words[at])
    is_new = is_new and version == expects
    if expects == '0' and version ~= '0' then
        redis.call('ZADD', P .. 'rn', '0', words[at]) -- who saw none is to see it, also if damage took its name
    end
    if becomes == '=' then
        was_taken = was_taken and version == expects
    elseif becomes == '-' then
        was_taken = was_taken and version == '0'
    else
        was_taken = was_taken and value == string.sub(becomes, 2)
    end
end
for at = change, last_change, 15 do
    local life, expected = lives[words[at + 1]], words[at + 2]
    is_new = is_new and life and string.sub(life, 1, #expected) == expected
    was_taken = was_taken and life == words[at + 3]
end
if not is_new and not was_taken then
    local before = last_word
    for _ = 1, word() do
        last_word = last_word + 4
        local value, last_value = list()
        for at = value, last_value, 4 do
            was_taken = was_taken or redis.call('EXISTS', words[at]) == 1
        end
        for _ = 1, 5 do list() end
    end
    last_word = before
end
if not is_new and not was_taken then
    return false
end
if not is_new then
    last_change = change - 1 -- they were made before
end
for at = record, last_record, 3 do
    if is_new and string.sub(words[at + 2], 1, 1) == '+' then
        redis.call('ZADD', P .. 'rn', '0', words[at]) -- before the record: this may fail
    end
end
