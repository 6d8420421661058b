-- Whose archived events went by age: of this tenant's recordings that were submitted before `before`, some or all. A rebuild
-- takes over what it cannot fold from them any more.
CREATE TABLE control.expired_events (
    tenant text        PRIMARY KEY,
    before timestamptz NOT NULL
);
