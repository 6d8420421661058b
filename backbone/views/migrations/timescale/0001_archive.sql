-- The archive in time slices. What it holds already is moved.
SELECT create_hypertable('log.events', 'occurred_at', chunk_time_interval => INTERVAL '1 day',
                         create_default_indexes => false, migrate_data => true);
