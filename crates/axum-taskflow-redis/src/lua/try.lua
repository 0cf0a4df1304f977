-- From here to `undo.lua` a command may fail, since a key is of another type than we gave it, and a script is not rolled
-- back. So what was written by then is written back, or whoever calls again would be told that it is done. A task that was
-- there before may stay in a set too many: it is put there again, and until then its state counts.
local made, moved, past, keys_before = {}, {}, {}, {}
local failure = nil

-- Takes what `pcall` gives.
local function try(is_done, why)
    if not is_done then failure = failure or why end
end

-- What becomes of a task's idempotency key, if it is still the task's.
local function settle_key(id, key, says, left_ms, holder)
    if not holder or string.sub(holder, 1, 36) ~= id then
        return
    end
    if keys_before[key] == nil then keys_before[key] = holder end
    if says == '' then
        redis.call('DEL', key)
    else
        redis.call('SET', key, says, 'PX', left_ms)
    end
end
