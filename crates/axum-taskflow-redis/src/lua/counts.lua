-- Fields "STATUS NAME" and numbers: Backend::counts.
return redis.call('HGETALL', P .. 'c')
