-- Tables in time slices. What they hold already is moved.
SELECT create_hypertable('{schema}.transcripts', 'submitted_at', chunk_time_interval => INTERVAL '30 days',
                         create_default_indexes => false, migrate_data => true);
SELECT create_hypertable('{schema}.segments', 'submitted_at', chunk_time_interval => INTERVAL '7 days',
                         create_default_indexes => false, migrate_data => true);
