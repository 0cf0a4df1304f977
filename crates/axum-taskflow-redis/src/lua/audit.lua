-- Audit entries, newest first: Backend::audit. ARGV: from as ZRANGEBYLEX takes it, how many.
return redis.call('ZREVRANGEBYLEX', P .. 'u', ARGV[1], '-', 'LIMIT', '0', ARGV[2])
