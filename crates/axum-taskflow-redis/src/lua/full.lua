-- A full server fails the first write of a script if that may need memory, and no write behind one that needs none. For
-- who comes and goes: if that failed, whoever wants to make room could not begin.
redis.call('DEL', P .. 'none')
