-- Forgets an instance: Backend::leave. ARGV: id, 1 if it had joined although the server may not know that any more.
if redis.call('HEXISTS', P .. 'i', ARGV[1]) == 1 or ARGV[2] == '1' then
    bury_later(ARGV[1]) -- first: what it holds is looked for by that
    redis.call('HDEL', P .. 'b', ARGV[1])
    redis.call('DEL', P .. 'i:' .. ARGV[1], P .. 'cl:' .. ARGV[1])
    redis.call('HDEL', P .. 'i', ARGV[1])
end
return 1
