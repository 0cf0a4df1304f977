-- Which request a task belongs to.

ALTER TABLE task ADD COLUMN tracking_id TEXT;
ALTER TABLE task ADD COLUMN trace_context TEXT;
-- serves list.rs by tracking id; costs nothing for a task that has none
CREATE INDEX task_tracked ON task (tracking_id, id) WHERE tracking_id IS NOT NULL;
