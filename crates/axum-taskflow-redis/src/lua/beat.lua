-- Keeps an instance alive: Backend::beat. ARGV: id, now, lease in milliseconds. Answers with 1, with 0 if it is gone,
-- or with -1 if the server has lost everything; and with what names this run of the server and its maxmemory-policy.
local run, policy = server()
if redis.call('EXISTS', P .. 'meta') == 0 then
    return { -1, run, policy }
end
if is_gone(ARGV[1]) then
    return { 0, run, policy }
end
-- It is there. A full server takes what needs no memory, and after that what does: not to store anything is no reason to
-- look dead, and to stop what runs.
redis.call('PEXPIRE', P .. 'i:' .. ARGV[1], ARGV[3])
redis.call('HSET', P .. 'b', ARGV[1], ARGV[2])
return { 1, run, policy }
