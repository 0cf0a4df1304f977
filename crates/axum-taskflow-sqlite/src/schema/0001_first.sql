-- The first schema. Times are milliseconds since the Unix epoch, ids are 16 bytes that sort by time.

-- Functions have a number here, so that a task carries a byte and not a name.
CREATE TABLE func (
    no   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- One boot of one process. A number is never used twice: old tasks go on naming it.
CREATE TABLE instance (
    no         INTEGER PRIMARY KEY AUTOINCREMENT,
    id         BLOB NOT NULL UNIQUE,
    -- NULL: it never joined; somebody named it.
    host       TEXT,
    pid        INTEGER,
    started_at INTEGER,
    -- The newest task when the instance was gone: once all tasks up to it are deleted, nothing names the instance.
    gone       BLOB
);

-- Live tasks and history. With a rowid: without, whole rows would lie in the inner pages of the tree, and large
-- arguments would make it deep.
CREATE TABLE task (
    id       BLOB NOT NULL,
    func     INTEGER NOT NULL,
    status   INTEGER NOT NULL, -- 0 pending, 1 running, 2 success, 3 failed, 4 interrupted, 5 cancelled
    epoch    INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    -- NULL: finished. 0: live and nobody's. Otherwise the number of the instance that holds it.
    owner    INTEGER,
    -- Where others look for the row: 0 ahead in time, 1 waiting for anybody; 3, 4, 5 ended with this status.
    -- NULL on the way that most tasks go, so that the indexes below cost them nothing.
    shelf    INTEGER,
    priority INTEGER NOT NULL,
    run_at   INTEGER NOT NULL,
    instance    INTEGER,
    started_at  INTEGER,
    finished_at INTEGER,
    source      INTEGER NOT NULL, -- 0 manual, 1 retry
    executor    INTEGER NOT NULL, -- 0 async, 1 thread
    requeue     INTEGER NOT NULL,
    args        TEXT NOT NULL,
    result      TEXT,
    error       TEXT, -- JSON, as tags, options, idempotency and progress
    tags        TEXT,
    options     TEXT,
    idempotency TEXT,
    retry_of    BLOB,
    progress    TEXT
);

-- serves every statement that names a task, and list.rs without a filter
CREATE UNIQUE INDEX task_by_id ON task (id);
-- serves list.rs by name
CREATE INDEX task_by_func ON task (func, id);
-- serves orphans.rs, and list.rs by pending and running
CREATE INDEX task_live ON task (owner, id) WHERE owner IS NOT NULL;
-- serves claim.rs: what is due, in the order in which it is to run
CREATE INDEX task_waiting ON task (func, priority DESC, run_at, id) WHERE shelf = 1;
-- serves claim.rs: what becomes due next
CREATE INDEX task_ahead ON task (func, run_at) WHERE shelf = 0;
-- serves list.rs by failed, interrupted and cancelled
CREATE INDEX task_ended_badly ON task (shelf, id) WHERE shelf >= 3;

-- Tags once more, to be searched.
CREATE TABLE task_tag (
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    task  BLOB NOT NULL,
    PRIMARY KEY (key, value, task)
) WITHOUT ROWID;
-- serves list.rs by a tag of any value
CREATE INDEX task_tag_by_key ON task_tag (key, task);

-- Which task has a key. The name of its function stays known when the task is deleted.
CREATE TABLE idempotency (
    key   TEXT PRIMARY KEY,
    task  BLOB NOT NULL,
    func  INTEGER NOT NULL,
    until INTEGER -- NULL: until the task frees it
) WITHOUT ROWID;
-- serves prune.rs
CREATE INDEX idempotency_until ON idempotency (until) WHERE until IS NOT NULL;

-- Attempts that another one followed.
CREATE TABLE attempt (
    task        BLOB NOT NULL,
    epoch       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    instance    INTEGER,
    started_at  INTEGER,
    finished_at INTEGER NOT NULL,
    outcome     INTEGER NOT NULL,
    error       TEXT,
    PRIMARY KEY (task, epoch)
) WITHOUT ROWID;

CREATE TABLE log (
    task    BLOB NOT NULL,
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    level   INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (task, epoch, seq)
) WITHOUT ROWID;

-- Kept with every change, so that nobody ever counts tasks.
CREATE TABLE counter (
    func   INTEGER NOT NULL,
    status INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (func, status)
) WITHOUT ROWID;

CREATE TABLE minute (
    at     INTEGER NOT NULL,
    func   INTEGER NOT NULL,
    status INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    run_ms INTEGER NOT NULL,
    PRIMARY KEY (at, func, status)
) WITHOUT ROWID;

CREATE TABLE audit (
    id     BLOB PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    task   BLOB,
    detail TEXT NOT NULL
) WITHOUT ROWID;
