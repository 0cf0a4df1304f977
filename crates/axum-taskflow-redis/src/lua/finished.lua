-- How many finished tasks there are, by the sums.
local function n_finished(sums)
    local n = 0
    for at = 1, #sums, 2 do
        local status = string.match(sums[at], '^(%a+) ')
        if status and status ~= 'pending' and status ~= 'running' then
            n = n + number_or_0(sums[at + 1])
        end
    end
    return n
end

