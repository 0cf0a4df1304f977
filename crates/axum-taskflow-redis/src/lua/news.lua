-- Tells other instances that something waits, if there are any. In a cluster a message goes to all nodes, unless it is one
-- of a slot; Redis 6.2 does not know those, and does not tell scripts its version either.
local function publish(message, is_cluster)
    local n = redis.pcall('HLEN', P .. 'i')
    if type(n) ~= 'number' or n < 2 then
        return
    end
    local how = is_cluster == '1' and redis.REDIS_VERSION_NUM and 'SPUBLISH' or 'PUBLISH'
    redis.call(how, P .. 'news', message)
end
