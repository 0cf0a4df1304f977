-- Records in the order of their names: Backend::records. ARGV: from and to as ZRANGEBYLEX takes them, how many. Answers
-- for each with name and "VERSION VALUE".
local names = redis.call('ZRANGEBYLEX', P .. 'rn', ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local answer = {}
for _, name in ipairs(names) do
    answer[#answer + 1] = name
    answer[#answer + 1] = redis.call('HGET', P .. 'r', name)
end
return answer
