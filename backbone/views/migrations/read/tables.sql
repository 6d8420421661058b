-- The read side. Everything here is folded from events and can be dropped and folded again; so nothing here takes a
-- value from the clock of the database.
CREATE SCHEMA {schema};

-- One row per recording. `generation` is the one that readers see; the columns from `status` on are its state.
-- `facts` is what the fold knows of the recording itself.
CREATE TABLE {schema}.recordings (
    id                   uuid        PRIMARY KEY,
    submitted_at         timestamptz NOT NULL,
    tenant               text        NOT NULL,
    drop_id              text,
    name                 text,
    generation           bigint,
    status               text        NOT NULL,
    reason_code          text,
    reason               text,
    audio_ms             bigint      NOT NULL,
    decoded_ms           bigint      NOT NULL,
    transcribed_ms       bigint      NOT NULL,
    segments             bigint,
    transcribed_segments bigint      NOT NULL,
    failed_segments      bigint      NOT NULL,
    language             text,
    completed_at         timestamptz,
    facts                jsonb       NOT NULL
);

-- One row per recording and generation. `facts` is what the fold knows of this transcription besides its segments.
CREATE TABLE {schema}.transcripts (
    submitted_at         timestamptz NOT NULL,
    recording            uuid        NOT NULL,
    generation           bigint      NOT NULL,
    tenant               text        NOT NULL,
    model                text,
    task                 text,
    lane                 text,
    activation           text,
    codec                text,
    status               text        NOT NULL,
    reason_code          text,
    reason               text,
    audio_ms             bigint      NOT NULL,
    decoded_ms           bigint      NOT NULL,
    transcribed_ms       bigint      NOT NULL,
    segments             bigint,
    transcribed_segments bigint      NOT NULL,
    failed_segments      bigint      NOT NULL,
    language             text,
    completed_at         timestamptz,
    facts                jsonb       NOT NULL,
    PRIMARY KEY (submitted_at, recording, generation)
);

-- The rules of the full-text index for a language of Whisper.
CREATE FUNCTION {schema}.config(language text) RETURNS regconfig
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE language
    WHEN 'ar' THEN 'pg_catalog.arabic'::regconfig      WHEN 'hy' THEN 'pg_catalog.armenian'::regconfig
    WHEN 'eu' THEN 'pg_catalog.basque'::regconfig      WHEN 'ca' THEN 'pg_catalog.catalan'::regconfig
    WHEN 'da' THEN 'pg_catalog.danish'::regconfig      WHEN 'nl' THEN 'pg_catalog.dutch'::regconfig
    WHEN 'en' THEN 'pg_catalog.english'::regconfig     WHEN 'fi' THEN 'pg_catalog.finnish'::regconfig
    WHEN 'fr' THEN 'pg_catalog.french'::regconfig      WHEN 'de' THEN 'pg_catalog.german'::regconfig
    WHEN 'el' THEN 'pg_catalog.greek'::regconfig       WHEN 'hi' THEN 'pg_catalog.hindi'::regconfig
    WHEN 'hu' THEN 'pg_catalog.hungarian'::regconfig   WHEN 'id' THEN 'pg_catalog.indonesian'::regconfig
    WHEN 'it' THEN 'pg_catalog.italian'::regconfig     WHEN 'lt' THEN 'pg_catalog.lithuanian'::regconfig
    WHEN 'ne' THEN 'pg_catalog.nepali'::regconfig      WHEN 'no' THEN 'pg_catalog.norwegian'::regconfig
    WHEN 'nn' THEN 'pg_catalog.norwegian'::regconfig   WHEN 'pt' THEN 'pg_catalog.portuguese'::regconfig
    WHEN 'ro' THEN 'pg_catalog.romanian'::regconfig    WHEN 'ru' THEN 'pg_catalog.russian'::regconfig
    WHEN 'sr' THEN 'pg_catalog.serbian'::regconfig     WHEN 'es' THEN 'pg_catalog.spanish'::regconfig
    WHEN 'sv' THEN 'pg_catalog.swedish'::regconfig     WHEN 'ta' THEN 'pg_catalog.tamil'::regconfig
    WHEN 'tr' THEN 'pg_catalog.turkish'::regconfig     WHEN 'yi' THEN 'pg_catalog.yiddish'::regconfig
    ELSE 'pg_catalog.simple'::regconfig
END;

-- One row per segment that ended. With text: `cause_code` is null. Without: `language` to `infer_ms` are null.
CREATE TABLE {schema}.segments (
    submitted_at  timestamptz NOT NULL,
    recording     uuid        NOT NULL,
    generation    bigint      NOT NULL,
    channel       integer     NOT NULL,
    index         bigint      NOT NULL,
    tenant        text        NOT NULL,
    round         bigint      NOT NULL,
    event_id      uuid        NOT NULL,
    occurred_at   timestamptz NOT NULL,
    start_ms      bigint      NOT NULL,
    end_ms        bigint      NOT NULL,
    language      text,
    text          text,
    -- JSON, as text: it is only ever read whole, and taking it apart at each write costs more than all the rest.
    spans         text,
    model         text,
    infer_ms      bigint,
    cause_code    text,
    cause_message text,
    attempts      bigint,
    search        tsvector    NOT NULL GENERATED ALWAYS AS (to_tsvector({schema}.config(language), coalesce(text, ''))) STORED,
    -- The share of the detected speech that has text, and what has none, as JSON; null where all of it has.
    coverage      real,
    gaps          text,
    PRIMARY KEY (submitted_at, recording, generation, channel, index)
);

-- What each tenant used, by the hour in which recordings were submitted.
CREATE VIEW {schema}.usage_hourly AS
SELECT date_trunc('hour', submitted_at, 'UTC') AS hour,
       tenant,
       count(*) FILTER (WHERE generation = 0)                  AS recordings,
       coalesce(sum(audio_ms) FILTER (WHERE generation = 0), 0)::bigint AS audio_ms,
       count(*)                                                AS transcripts,
       sum(transcribed_ms)::bigint                             AS transcribed_ms,
       sum(failed_segments)::bigint                            AS failed_segments
FROM {schema}.transcripts
GROUP BY 1, 2;

-- Where the server has it; the usual compression takes ten times as long for a tenth less room.
DO $$ BEGIN
    ALTER TABLE {schema}.segments ALTER COLUMN spans SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;
