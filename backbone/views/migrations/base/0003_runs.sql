-- Reprocessing: runs that have recordings transcribed again, and what each of them asked for.
CREATE TABLE control.runs (
    id            uuid        PRIMARY KEY,
    tenant        text        NOT NULL,
    created_at    timestamptz NOT NULL,
    state         text        NOT NULL CHECK (state IN ('queued', 'running', 'done', 'cancelled', 'failed')),
    reason_code   text,
    reason        text,
    selection     jsonb       NOT NULL,
    wishes        jsonb       NOT NULL,
    activation    text        NOT NULL,
    -- Hours of audio requested in an hour, at most; null without a limit. The next request is due at `not_before`.
    rate          float8,
    not_before    timestamptz,
    -- What the selection held when the run was made.
    selected      bigint      NOT NULL,
    selected_ms   bigint      NOT NULL,
    -- The last recording that was dealt with, and whether it was the last of the selection.
    cursor_at     timestamptz,
    cursor_id     uuid,
    all_requested boolean     NOT NULL DEFAULT false,
    -- Whether its generations are to be activated as they are complete.
    activating    boolean     NOT NULL DEFAULT false,
    started_at    timestamptz,
    ended_at      timestamptz
);
CREATE INDEX runs_by_tenant ON control.runs (tenant, created_at DESC, id DESC);
CREATE INDEX runs_at_work ON control.runs (created_at) WHERE ended_at IS NULL OR activating;

-- One row per recording that a run dealt with. The row comes before the request, so that a request that is repeated
-- after a crash names the same generation.
CREATE TABLE control.run_recordings (
    run             uuid        NOT NULL REFERENCES control.runs ON DELETE CASCADE,
    recording       uuid        NOT NULL,
    submitted_at    timestamptz NOT NULL,
    audio_ms        bigint      NOT NULL,
    -- The generation asked for, and the one that readers saw then. No generation: skipped, and why.
    generation      bigint,
    baseline        bigint,
    skipped         text,
    requested_at    timestamptz,
    cancelled_at    timestamptz,
    activated_at    timestamptz,
    -- How the words of both differ, once the generation is complete; `difference_ppm` is changed words in a million.
    compared_at     timestamptz,
    baseline_words  bigint,
    words           bigint,
    replaced        bigint,
    inserted        bigint,
    deleted         bigint,
    difference_ppm  bigint,
    PRIMARY KEY (run, recording)
);
CREATE UNIQUE INDEX run_generations ON control.run_recordings (recording, generation);
CREATE INDEX run_differences ON control.run_recordings (run, difference_ppm DESC, recording) WHERE difference_ppm IS NOT NULL;
CREATE INDEX run_open ON control.run_recordings (run, submitted_at, recording) WHERE skipped IS NULL AND compared_at IS NULL;
