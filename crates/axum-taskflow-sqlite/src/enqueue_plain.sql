-- As enqueue.sql, for a task of which nothing was said but its arguments: a parameter costs more than a literal.
INSERT INTO task (
    id, func, status, epoch, attempt, owner, shelf, priority, run_at, instance, started_at, finished_at,
    source, executor, requeue, args, result, error, tags, options, idempotency, retry_of, progress, crashes
) VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL,
    0, ?, ?, ?, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0
)
ON CONFLICT (id) DO NOTHING
