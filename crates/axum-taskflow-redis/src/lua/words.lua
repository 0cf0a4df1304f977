-- What a batch or a step says: the beginning of WRITE and STEP.
--
-- ARGV: session, generation, words in MessagePack, which the server reads in half the time of as many arguments, 1 if this
-- is a cluster, and what one argument had no room for. The words stand one behind the other, with the number of those that
-- belong together in front of them, since each list of its own would cost as much as a command; only if there are more than
-- Lua's stack has room for, they stand in one list. The first word is now; of the other parts there are
--   blocks:  of new tasks that have much in common, at most 500, none twice. How many blocks, then of each: function,
--            status, set of the owner, set in which they wait or nothing. Then, counted and laid out as commands take
--            them: t-key, body, l-key, life of each; 0, id of each; 0, place of each, if they wait; set, id of each tag;
--            and, if they have idempotency keys, number in the batch of each; k-key, what it is to say of each
--   moves:   of starts, ends and releases that have much in common, at most 500, none twice. How many moves, then of each:
--            what is expected of the life ("STATUS EPOCH "), who probably holds them (who has to, if they are released),
--            function, status, set of the owner or nothing if they have ended, set in which they wait if they are released
--            or nothing, minute of a terminal one or nothing. Then, counted: l-key, life of each; number among the
--            changes, milliseconds of each; 0, place of each, if they wait; and, if they have idempotency keys, k-key,
--            what it says from now on and for how many milliseconds or nothing twice if it is free again, of each
--   changes: counted: number among the changes, id, what is expected of the life (as above; behind it "OWNER " if that
--            matters), life, function, past attempt as JSON or nothing, k-key with what it says and for how long (as
--            above, or nothing three times), minute and milliseconds of a terminal one, status, set of the owner or
--            nothing, set in which it waits and place there or nothing twice
--   notes:   counted: id, epoch, "L" and a line that sorts or "P" and JSON
--   audit:   counted: id and JSON in one
--   records: counted: name, expected version, what becomes of it ("=" the same, "+"VALUE, or "-" gone)
-- A batch has blocks, moves, changes (which may be of its own tasks), notes and audit. It may arrive again, whole or in part:
-- what was done is left as it is, and answered as done. A step has records, changes, blocks (which may want keys that the
-- changes free) and audit. One that is stale is answered with nothing; one that arrives again is answered as taken.
--
-- Answers with what is not as it was asked for: the number and the holder (id and function) of the key for each task that
-- was not made, and the numbers of the changes that are stale; and with the version of each record. With 0 if all that is
-- nothing.
local refused_for, latest = refusal(ARGV[1], ARGV[2])
if refused_for then
    return refused_for
end
local words = { cmsgpack.unpack(#ARGV > 4 and ARGV[3] .. table.concat(ARGV, '', 5) or ARGV[3]) }
if not words[2] then
    words = words[1] -- many stand in a list
end
local now, last_word = tonumber(words[1]), 1

local function word()
    last_word = last_word + 1
    return words[last_word]
end

-- Where the first and the last of those stand that are counted in front of them.
local function list()
    local first = last_word + 2
    last_word = first + words[first - 1] - 1
    return first, last_word
end

-- What is gathered by the parts that follow, and written and told of at the end.
local refused, stale, versions = {}, {}, {}
local owners, waiting, something_waits, minutes = {}, {}, false, {}
local lives, stored = {}, {} -- of what is looked at one by one: how it stands, and what of that is to be stored

local function count_end(minute, status, name, n, ran_ms)
    local sums = minutes[minute] or {}
    minutes[minute] = sums
    local field = status .. ' ' .. name
    local sum = sums[field] or { 0, 0 }
    sums[field] = sum
    sum[1], sum[2] = sum[1] + n, sum[2] + ran_ms
end

local function look_at(ids)
    for n, life in ipairs(get_all('l:', ids)) do
        lives[ids[n]] = lives[ids[n]] or life
    end
end

-- How a task stands that had ended before it said something, by how it stood then: who deletes it is to look for that. Or
-- nothing, if that is known of it already, or it has not ended.
local function said_late(life)
    local head, rest = string.match(life, '^([^\n]* [+-])%-(\n.*)$')
    return head and head .. '+' .. rest
end
