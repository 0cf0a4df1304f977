-- Several processes: what the others know of an instance, and what a task has done to its processes.

-- Processes that died while they ran it.
ALTER TABLE task ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;

ALTER TABLE instance ADD COLUMN version TEXT;
ALTER TABLE instance ADD COLUMN role INTEGER; -- 0 both, 1 web, 2 worker
ALTER TABLE instance ADD COLUMN functions TEXT; -- JSON
ALTER TABLE instance ADD COLUMN beat_at INTEGER;
-- 1: its tasks were taken from it while it lived.
ALTER TABLE instance ADD COLUMN superseded INTEGER;
-- serves instances.rs and orphans.rs
CREATE INDEX instance_present ON instance (no) WHERE gone IS NULL;
