-- A part of what an instance holds: Backend::held. ARGV: owner, from where as ZRANGEBYLEX takes it, how many at most,
-- the number of the owner's last claim whose answer was heard. Answers with the last id that was looked at or nothing, then
-- ids. What a claim took whose answer was lost is left out: the next claim brings it.
local owner, heard = ARGV[1], tonumber(ARGV[4])
local on_its_way = {}
local record = redis.call('GET', P .. 'cl:' .. owner)
local last, given, left = string.match(record or '', '^(%d+) (.-)|(.*)$')
if last then
    if tonumber(last) > heard then
        left = given .. ' ' .. left
    end
    for id in string.gmatch(left, '%S+') do on_its_way[id] = true end
end
local ids = redis.call('ZRANGEBYLEX', P .. 'o:' .. owner, ARGV[2], '+', 'LIMIT', '0', ARGV[3])
local answer = { ids[#ids] or '' }
for _, id in ipairs(ids) do
    if not on_its_way[id] then
        answer[#answer + 1] = id
    end
end
return answer
