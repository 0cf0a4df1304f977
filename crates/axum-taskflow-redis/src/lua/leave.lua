-- Forgets an instance: Backend::leave. ARGV: id, 1 if it had joined although the server may not know that any more.
if redis.call('HDEL', P .. 'i', ARGV[1]) == 1 or ARGV[2] == '1' then
    redis.call('HDEL', P .. 'b', ARGV[1])
    redis.call('DEL', P .. 'i:' .. ARGV[1], P .. 'cl:' .. ARGV[1])
    bury_later(ARGV[1])
end
return 1
