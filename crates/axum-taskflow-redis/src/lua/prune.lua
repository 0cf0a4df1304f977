-- Deletes a part of what is old: Backend::prune. ARGV: finished_before, failed_before, from and to as ZRANGEBYLEX takes
-- them, how many to look at, and how many finished tasks may be left or nothing: then it deletes no more than are too
-- many. Answers with how many were deleted, the last id that was looked at or nothing, and 1 if still too many are left.
local finished_before, failed_before = tonumber(ARGV[1]), tonumber(ARGV[2])
local too_many = nil
if ARGV[6] ~= '' then
    too_many = -tonumber(ARGV[6])
    local by_status = redis.call('HGETALL', P .. 'c')
    for n = 1, #by_status, 2 do
        local status = string.match(by_status[n], '^(%a+) ')
        if status and status ~= 'pending' and status ~= 'running' then
            too_many = too_many + number_or_0(by_status[n + 1])
        end
    end
    if too_many <= 0 then
        return { 0, '', 0 }
    end
end
local limit = tonumber(ARGV[5])
local ids = first_ids('ZRANGEBYLEX', sets_of_all(), ARGV[3], ARGV[4], limit)
local lives = get_all('l:', ids)
local to_delete, deleted = {}, 0
for n, id in ipairs(ids) do
    if too_many and deleted >= too_many then
        break
    end
    local status, finished_at = string.match(lives[n] or '', '^(%a+) %d+ %S+ %d+ %d+ %d+ %S+ %S+ (%S+)\n')
    local before = nil
    finished_at = tonumber(finished_at or '')
    if status == 'success' or status == 'cancelled' then
        before = finished_before
    elseif status == 'failed' or status == 'interrupted' then
        before = failed_before
    end
    if before and finished_at and finished_at < before then
        local meta = meta_of(id)
        if meta then -- one that cannot be read stays, and is shown in part
            mark('f:' .. meta.name, id, false)
            for _, tag in ipairs(type(meta.tag_sets) == 'table' and meta.tag_sets or {}) do
                mark('y:' .. tostring(tag), id, false)
            end
            count(status, meta.name, -1)
            mark('s:' .. status, id, false)
            for _, kind in ipairs({ 't:', 'l:', 'q:', 'p:', 'g:' }) do
                to_delete[#to_delete + 1] = P .. kind .. id
            end
            deleted = deleted + 1
        end
    end
end
each_chunk(to_delete, function(...) redis.call('UNLINK', ...) end)
drop_marks()
write_counts()
local last = ''
if #ids > 0 and #ids == limit then
    last = ids[#ids]
end
return { deleted, last, too_many and deleted < too_many and 1 or 0 }
