-- The read side in its versions, a schema each. One serves; a new one is built beside it; old ones stay until somebody
-- drops them. Readers ask the views of schema `read`, which show the one that serves.
CREATE SCHEMA read;

CREATE TABLE control.projections (
    schema      text        PRIMARY KEY,
    -- The shape of its tables: a program writes only tables of its own layout.
    layout      integer     NOT NULL,
    state       text        NOT NULL CHECK (state IN ('building', 'serving', 'old')),
    -- What its tables were made with.
    timescale   boolean     NOT NULL DEFAULT false,
    community   boolean     NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    serving_at  timestamptz,
    replaced_at timestamptz
);
CREATE UNIQUE INDEX one_serves ON control.projections (state) WHERE state = 'serving';
CREATE UNIQUE INDEX one_is_built ON control.projections (state) WHERE state = 'building';

-- How far a version that is being built has folded the archive: every seq of the shard up to this one.
CREATE TABLE control.positions (
    schema text    NOT NULL REFERENCES control.projections ON DELETE CASCADE,
    shard  integer NOT NULL,
    seq    bigint  NOT NULL,
    events bigint  NOT NULL,
    PRIMARY KEY (schema, shard)
);
