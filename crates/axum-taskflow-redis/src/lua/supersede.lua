-- Takes an instance for dead if it has not beaten since: Backend::supersede. ARGV: id, its last beat.
if redis.call('HEXISTS', P .. 'i', ARGV[1]) == 1 and beat_of(ARGV[1]) == ARGV[2] then
    bury_later(ARGV[1])
end
return 1
