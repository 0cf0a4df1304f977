-- Whether apply.sql did this before: the row is what it would make of it.
SELECT 1
FROM task
WHERE id = ?1 AND status = ?4 AND epoch = ?5 AND attempt = ?6 AND owner IS ?7 AND run_at = ?9
  AND instance IS ?10 AND started_at IS ?11 AND finished_at IS ?12 AND result IS ?13 AND error IS ?14
