-- What instances agree on.
CREATE TABLE record (
    key     TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    value   TEXT NOT NULL
) WITHOUT ROWID;
-- The last version that was given to any record, so that none is given twice; grows when one is deleted, too.
CREATE TABLE record_version (
    last INTEGER NOT NULL
);
INSERT INTO record_version (last) VALUES (0);
