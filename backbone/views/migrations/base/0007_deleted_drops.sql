-- Drops that were deleted when no recording of theirs was known. Where a fact of one was on its way, or Redis forgot that
-- the drop is deleted, there is a recording all the same: the keeper finds it by this and deletes it, too.
CREATE TABLE control.deleted_drops (
    drop_id text             NOT NULL,
    tenant text              NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (drop_id, tenant)
);
