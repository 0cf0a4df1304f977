-- All that joined and have not left: Backend::instances. Answers for each with id, JSON, last beat and 1 if it lives.
local answer = {}
local all = redis.call('HGETALL', P .. 'i')
for n = 1, #all, 2 do
    local id = all[n]
    answer[#answer + 1] = id
    answer[#answer + 1] = all[n + 1]
    answer[#answer + 1] = beat_of(id)
    answer[#answer + 1] = is_gone(id) and 0 or 1
end
return answer
