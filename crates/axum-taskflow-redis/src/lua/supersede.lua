-- Takes an instance for dead if it has not beaten since: Backend::supersede. ARGV: id, its last beat.
if redis.call('HEXISTS', P .. 'i', ARGV[1]) == 1 and (redis.call('HGET', P .. 'b', ARGV[1]) or '0') == ARGV[2] then
    bury_later(ARGV[1])
end
return 1
