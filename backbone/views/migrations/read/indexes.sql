-- What no writer needs: made when the tables are full, where they are filled at once.
CREATE INDEX IF NOT EXISTS recordings_by_time ON {schema}.recordings (submitted_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS recordings_by_tenant ON {schema}.recordings (tenant, submitted_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS recordings_by_status ON {schema}.recordings (status, submitted_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS recordings_by_drop ON {schema}.recordings (drop_id);
CREATE INDEX IF NOT EXISTS transcripts_by_recording ON {schema}.transcripts (recording, generation);
CREATE INDEX IF NOT EXISTS segments_by_words ON {schema}.segments USING gin (search);
