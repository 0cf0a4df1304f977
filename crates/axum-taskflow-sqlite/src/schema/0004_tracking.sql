-- The tasks of a request, to be searched. What a task says of its request lies in task.options: a column of its own
-- would cost every task.
CREATE TABLE task_tracking (
    tracking_id TEXT NOT NULL,
    task        BLOB NOT NULL,
    PRIMARY KEY (tracking_id, task)
) WITHOUT ROWID;
