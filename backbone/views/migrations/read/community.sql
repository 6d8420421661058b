-- What only the Community edition can do: compressed slices, and usage added up as it comes.
ALTER TABLE {schema}.segments SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'recording',
    timescaledb.compress_orderby = 'submitted_at, generation, channel, index'
);

DROP VIEW {schema}.usage_hourly;
-- Real time: hours that are not added up yet are computed when read.
CREATE MATERIALIZED VIEW {schema}.usage_hourly
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '1 hour', submitted_at) AS hour,
       tenant,
       count(*) FILTER (WHERE generation = 0)                  AS recordings,
       coalesce(sum(audio_ms) FILTER (WHERE generation = 0), 0)::bigint AS audio_ms,
       count(*)                                                AS transcripts,
       sum(transcribed_ms)::bigint                             AS transcribed_ms,
       sum(failed_segments)::bigint                            AS failed_segments
FROM {schema}.transcripts
GROUP BY 1, 2
WITH NO DATA;
SELECT add_continuous_aggregate_policy('{schema}.usage_hourly', start_offset => INTERVAL '3 days',
                                       end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '30 minutes');
