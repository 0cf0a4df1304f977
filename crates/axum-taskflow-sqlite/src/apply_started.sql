-- As apply.sql, for a task that stays where it is in every index.
UPDATE task
SET status = ?4, epoch = ?5, attempt = ?6,
    instance = ?10, started_at = ?11, finished_at = ?12, result = ?13, error = ?14
WHERE rowid = ?15 AND id = ?1 AND status = ?2 AND epoch = ?3
  AND owner = ?7 AND shelf IS NULL AND run_at = ?9 AND ?8 IS NULL
