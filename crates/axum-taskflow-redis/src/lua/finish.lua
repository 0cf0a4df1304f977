-- The rest of what was gathered is written, and told of: the end of WRITE and STEP. None of it fails.
local to_set = {}
for id, life in pairs(stored) do
    to_set[#to_set + 1] = P .. 'l:' .. id
    to_set[#to_set + 1] = life
end
each_chunk(to_set, function(...) redis.call('MSET', ...) end)
drop_marks()
if something_waits then
    if next(waiting) and now > latest then
        redis.call('SET', P .. 'h', words[1])
    end
    publish(ARGV[1], ARGV[4]) -- who need not be told
end
if #refused + #stale + #versions == 0 then
    return 0 -- costs less than empty lists
end
return { refused, stale, versions }
