UPDATE task
SET status = ?4, epoch = ?5, attempt = ?6, owner = ?7, shelf = ?8, run_at = ?9,
    instance = ?10, started_at = ?11, finished_at = ?12, result = ?13, error = ?14, crashes = ?15
WHERE id = ?1 AND status = ?2 AND epoch = ?3
