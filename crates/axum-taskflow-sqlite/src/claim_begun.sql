-- A task leaves the waiting ones, and its next attempt begins.
UPDATE task
SET status = ?2, epoch = ?3, attempt = ?4, owner = ?5, shelf = NULL,
    instance = ?6, started_at = ?7, finished_at = NULL, result = NULL, error = NULL
WHERE rowid = ?1
