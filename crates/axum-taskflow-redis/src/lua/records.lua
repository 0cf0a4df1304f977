-- Records in the order of their names: Backend::records. ARGV: from and to as ZRANGEBYLEX takes them, how many. Answers
-- with the last name that was looked at, or nothing if there is none behind it, and for each with name, version and value.
-- One that cannot be read has no value.
local limit = tonumber(ARGV[3])
local names = redis.call('ZRANGEBYLEX', P .. 'rn', ARGV[1], ARGV[2], 'LIMIT', '0', limit)
local answer, bytes = { #names == limit and names[limit] or '' }, 0
for n, name in ipairs(names) do
    local version, value = record_of(name)
    bytes = bytes + #(value or '')
    if n > 1 and bytes > BYTES_MAX then
        answer[1] = names[n - 1]
        break
    end
    if version ~= '0' then
        local at = #answer
        answer[at + 1], answer[at + 2], answer[at + 3] = name, version, value or false
    end
end
return answer
