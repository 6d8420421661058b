-- What is kept when the read side is rebuilt: the archive of events, and what the programs remember.
CREATE SCHEMA log;
CREATE SCHEMA IF NOT EXISTS control;

-- Every fact, as it stood in the log. `event` is the envelope, byte for byte.
CREATE TABLE log.events (
    occurred_at  timestamptz NOT NULL,
    event_id     uuid        NOT NULL,
    type         text        NOT NULL,
    version      bigint      NOT NULL,
    shard        integer     NOT NULL,
    seq          bigint      NOT NULL,
    recording    uuid        NOT NULL,
    tenant       text        NOT NULL,
    generation   bigint      NOT NULL,
    round        bigint      NOT NULL,
    submitted_at timestamptz NOT NULL,
    event        text        NOT NULL,
    PRIMARY KEY (occurred_at, event_id)
);
CREATE INDEX events_by_seq ON log.events (shard, seq);
CREATE INDEX events_by_recording ON log.events (recording, seq);

-- Where the server has it; the usual compression takes ten times as long for a tenth less room.
DO $$ BEGIN
    ALTER TABLE log.events ALTER COLUMN event SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- Decides what is new. Not the place in a log: those repeat after a failover.
CREATE TABLE control.inbox (
    event_id uuid    PRIMARY KEY,
    shard    integer NOT NULL,
    seq      bigint  NOT NULL
);

-- Which seqs of a shard's log are folded and archived, as ranges: one range when nothing is missing.
CREATE TABLE control.checkpoints (
    shard   integer        PRIMARY KEY,
    seen    int8multirange NOT NULL,
    applied bigint         NOT NULL
);

-- Seqs that will never come, and why: `seen` counts them as seen.
CREATE TABLE control.gaps (
    shard     integer     NOT NULL,
    first_seq bigint      NOT NULL,
    last_seq  bigint      NOT NULL,
    reason    text        NOT NULL,
    noted_at  timestamptz NOT NULL DEFAULT now(),
    -- An event came after all with one of these seqs, last at this time.
    filled_at timestamptz,
    PRIMARY KEY (shard, first_seq, last_seq)
);

-- Two events with one seq: the log was rolled back by a failover after the first was read.
CREATE TABLE control.conflicts (
    shard        integer     NOT NULL,
    seq          bigint      NOT NULL,
    first_event  uuid        NOT NULL,
    second_event uuid        NOT NULL,
    noted_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, seq, second_event)
);

CREATE TABLE control.tenants (
    tenant     text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Keys of the API. Only the SHA-256 of a key is kept; `prefix` lets people recognise it.
CREATE TABLE control.api_keys (
    id         uuid        PRIMARY KEY,
    tenant     text        NOT NULL REFERENCES control.tenants,
    name       text        NOT NULL,
    prefix     text        NOT NULL,
    hash       bytea       NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
