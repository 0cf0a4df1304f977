-- Makes an instance known: Backend::join. ARGV: id, JSON, started_at, lease in milliseconds, what to call a new store.
-- Answers with what this store is called, how many finished tasks it has, and what names this run of the server and its
-- maxmemory-policy.
redis.call('SET', P .. 'meta', ARGV[5], 'NX')
local meta = redis.call('GET', P .. 'meta')
if string.match(meta, '^%S+') ~= string.match(ARGV[5], '^%S+') then
    return { meta, 0, server() } -- of another version: nothing is touched
end
redis.call('HSET', P .. 'b', ARGV[1], ARGV[3])
redis.call('SET', P .. 'i:' .. ARGV[1], '', 'PX', ARGV[4])
redis.call('HSET', P .. 'i', ARGV[1], ARGV[2]) -- last: who is there and does not live is dead
local sums = redis.pcall('HGETALL', P .. 'c') -- there are none in a key of another type
return { meta, n_finished(sums), server() }
