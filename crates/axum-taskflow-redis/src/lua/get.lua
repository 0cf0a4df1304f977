-- One task: Backend::get. ARGV: id. Answers with life, body, progress and past attempts.
local id = ARGV[1]
local parts = redis.call('MGET', P .. 'l:' .. id, P .. 't:' .. id, P .. 'q:' .. id)
if not parts[1] or not parts[2] then
    return false
end
return { parts[1], parts[2], parts[3], redis.call('LRANGE', P .. 'p:' .. id, 0, -1) }
