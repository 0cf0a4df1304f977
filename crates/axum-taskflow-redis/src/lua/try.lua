-- From here to `undo.lua` a command may fail, since a key is of another type than we gave it, and a script is not rolled
-- back. So what was written by then is written back, or whoever calls again would be told that it is done. A task that was
-- there before may stay in a set too many: it is put there again, and until then its state counts.
local made, moved, past, keys_before = {}, {}, {}, {}
local failure = nil

-- Takes what `pcall` gives.
local function try(is_done, why)
    if not is_done then failure = failure or why end
end
