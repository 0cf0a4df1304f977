-- As enqueue.sql, for a task of which nothing was said but its arguments: a parameter costs more than a literal.
INSERT INTO task (
    id, func, status, epoch, attempt, owner, shelf, priority, run_at, instance, started_at, finished_at,
    source, executor, requeue, args, result, error, tags, options, idempotency, retry_of, progress, crashes
) VALUES (
    ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, NULL,
    0, ?12, ?13, ?14, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0
)
ON CONFLICT (id) DO NOTHING
