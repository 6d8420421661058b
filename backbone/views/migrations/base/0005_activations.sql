-- How often a run was activated: each time is an act of its own, so that readers can be led back to it.
ALTER TABLE control.runs ADD COLUMN activations bigint NOT NULL DEFAULT 0;
UPDATE control.runs SET activations = 1 WHERE activating;
