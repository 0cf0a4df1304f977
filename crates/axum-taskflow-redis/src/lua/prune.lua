-- Deletes a part of what is old: Backend::prune. ARGV: finished_before, failed_before, from and to as ZRANGEBYLEX takes
-- them, how many to look at, and how many finished tasks may be left or nothing: then it deletes no more than are too
-- many. Answers with how many were deleted, the last id that was looked at or nothing, and 1 if still too many are left.
local finished_before, failed_before = tonumber(ARGV[1]), tonumber(ARGV[2])
local too_many = nil
if ARGV[6] ~= '' then
    too_many = n_finished(redis.call('HGETALL', P .. 'c')) - tonumber(ARGV[6])
    if too_many <= 0 then
        return { 0, '', 0 }
    end
end
local limit, sets = tonumber(ARGV[5]), sets_of_all()
local ids, sets_of_ids = first_ids('ZRANGEBYLEX', sets, ARGV[3], ARGV[4], limit)
local lives = get_all('l:', ids)

-- Status and end of a task, and what may have to be deleted with it. Most have succeeded, until 2286 with a time of thirteen
-- digits: of those it is cheaper to take the words than to read all.
local function end_of(life)
    local line_ends = string.find(life, '\n', 1, true)
    if line_ends and string.sub(life, 1, 8) == 'success ' and string.byte(life, line_ends - 17) == 32
            and string.byte(life, line_ends - 3) == 32 then
        local finished_at = tonumber(string.sub(life, line_ends - 16, line_ends - 4))
        if finished_at then
            return 'success', finished_at, string.sub(life, line_ends - 2, line_ends - 1)
        end
    end
    local status, finished_at, beside = string.match(life, '^(%a+) %d+ %S+ %d+ %d+ %d+ %S+ %S+ (%S+) ?([+-]*)\n')
    return status, tonumber(finished_at or ''), beside
end

-- The sets of its tags; nothing of a task that cannot be read. Most have none, which is seen without reading JSON.
local none = {}
local function tag_sets_of(id)
    local text = redis.call('GETRANGE', P .. 't:' .. id, '0', '1023')
    local is_plain = string.find(text, '^%x+\n{"name":"') and string.find(text, '}\n', 1, true)
    if is_plain and not string.find(text, '"tag_sets"', 1, true) then
        return none
    end
    local meta = meta_of(id)
    return meta and (type(meta.tag_sets) == 'table' and meta.tag_sets or none)
end

local to_delete, deleted, seen_in, gone_from = {}, 0, {}, {}
for n, id in ipairs(ids) do
    if too_many and deleted >= too_many then
        break
    end
    local set = sets_of_ids and sets_of_ids[n] or sets[1]
    seen_in[set] = (seen_in[set] or 0) + 1
    local status, finished_at, beside = end_of(lives[n] or '')
    local before = nil
    if status == 'success' or status == 'cancelled' then
        before = finished_before
    elseif status == 'failed' or status == 'interrupted' then
        before = failed_before
    end
    local is_old = before and finished_at and finished_at < before
    local tag_sets = is_old and (string.sub(beside, 1, 1) == '-' and none or tag_sets_of(id))
    if tag_sets then -- one of which not so much can be read stays, and is shown in part
        local gone = gone_from[set]
        if not gone then
            gone = {}
            gone_from[set] = gone
        end
        gone[#gone + 1] = id
        for n_tag = 1, #tag_sets do
            mark('y:' .. tostring(tag_sets[n_tag]), id, false)
        end
        count(status, string.sub(set, 3), -1)
        if status ~= 'success' then
            mark('s:' .. status, id, false)
        end
        local at = #to_delete
        to_delete[at + 1], to_delete[at + 2] = P .. 't:' .. id, P .. 'l:' .. id
        if string.sub(beside, 2) ~= '-' then
            to_delete[at + 3], to_delete[at + 4], to_delete[at + 5] = P .. 'q:' .. id, P .. 'p:' .. id, P .. 'g:' .. id
        end
        deleted = deleted + 1
    end
end
each_chunk(to_delete, function(...) redis.call('UNLINK', ...) end)
for set, gone in pairs(gone_from) do
    if #gone == seen_in[set] then
        -- All that were looked at, as nearly always: nothing else lies between them.
        redis.call('ZREMRANGEBYLEX', P .. set, '[' .. gone[1], '[' .. gone[#gone])
    else
        each_chunk(gone, function(...) redis.call('ZREM', P .. set, ...) end)
    end
end
drop_marks()
write_counts()
local last = ''
if #ids > 0 and #ids == limit then
    last = ids[#ids]
end
return { deleted, last, too_many and deleted < too_many and 1 or 0 }
