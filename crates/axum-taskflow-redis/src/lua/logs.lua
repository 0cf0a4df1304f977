-- Log lines in their order: Backend::logs. ARGV: id, first, last.
return redis.call('ZRANGE', P .. 'g:' .. ARGV[1], ARGV[2], ARGV[3])
