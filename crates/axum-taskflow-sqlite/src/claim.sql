SELECT priority, run_at, id, rowid
FROM task
WHERE shelf = 1 AND func = ?1 AND run_at <= ?2
ORDER BY priority DESC, run_at, id
LIMIT ?3
