INSERT INTO task (
    id, func, status, epoch, attempt, owner, shelf, priority, run_at, instance, started_at, finished_at,
    source, executor, requeue, args, result, error, tags, options, idempotency, retry_of, progress, crashes
) VALUES (
    ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,
    ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24
)
ON CONFLICT (id) DO NOTHING
