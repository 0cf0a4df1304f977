-- Keeps an instance alive: Backend::beat. ARGV: id, now, lease in milliseconds. Answers with 1, with 0 if it is gone,
-- or with -1 if the server has lost everything; and with what names this run of the server.
local run = run_of_server()
if is_empty() then
    return { -1, run }
end
if is_gone(ARGV[1]) then
    return { 0, run }
end
redis.call('SET', P .. 'i:' .. ARGV[1], '', 'PX', ARGV[3])
redis.call('HSET', P .. 'b', ARGV[1], ARGV[2])
return { 1, run }
