-- Deletions: what is still to be erased, and what was. `folded_at`: the read side knows of the deletion, so nothing of
-- the recording is archived any more. `rewritten_at`: Redis was asked to write its append-only file anew since.
CREATE TABLE control.erasures (
    recording    uuid        PRIMARY KEY,
    tenant       text        NOT NULL,
    submitted_at timestamptz NOT NULL,
    drop_id      text,
    requested_by text        NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    folded_at    timestamptz,
    completed_at timestamptz,
    removed      jsonb,
    rewritten_at timestamptz
);
CREATE INDEX erasures_open ON control.erasures (requested_at) WHERE completed_at IS NULL;
CREATE INDEX erasures_in_file ON control.erasures (completed_at) WHERE rewritten_at IS NULL;

-- How long things are kept, counted from when a recording was submitted. Tenant `*` is everybody without a row of
-- their own; `keep_seconds` null is for ever, and so is no row at all.
CREATE TABLE control.retention (
    tenant       text   NOT NULL,
    what         text   NOT NULL CHECK (what IN ('audio', 'transcripts', 'events')),
    keep_seconds bigint CHECK (keep_seconds > 0),
    PRIMARY KEY (tenant, what)
);

-- Recordings whose audio is gone by age while their transcripts stay.
CREATE TABLE control.expired_audio (
    recording  uuid        PRIMARY KEY,
    expired_at timestamptz NOT NULL DEFAULT now()
);

-- A key with which the deployment is looked after: dead letters and what is in the queues, of all tenants.
ALTER TABLE control.api_keys ADD COLUMN operator boolean NOT NULL DEFAULT false;
