-- Takes an instance for dead: Backend::supersede. ARGV: id.
if redis.call('HEXISTS', P .. 'i', ARGV[1]) == 1 then
    bury_later(ARGV[1])
end
return 1
