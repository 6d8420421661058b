-- Tables in time slices. What they hold already is moved.
SELECT create_hypertable('log.events', 'occurred_at', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, migrate_data => true);
SELECT create_hypertable('read_v1.transcripts', 'submitted_at', chunk_time_interval => INTERVAL '30 days',
                         create_default_indexes => false, migrate_data => true);
SELECT create_hypertable('read_v1.segments', 'submitted_at', chunk_time_interval => INTERVAL '7 days',
                         create_default_indexes => false, migrate_data => true);
