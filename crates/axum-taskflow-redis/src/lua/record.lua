-- Version and value of a record; '0' if there is none. One that cannot be read is there all the same: it may say that
-- somebody holds a lock. It has the version 1, as no other (see `new_version`), so that who decides can delete it; and no
-- value.
local function record_of(name)
    local record = redis.call('HGET', P .. 'r', name)
    if not record then
        return '0', nil
    end
    local version, value = string.match(record, '^([1-9]%d*) (.*)$')
    if not version or #version > 16 then
        return '1', nil
    end
    return version, value
end
