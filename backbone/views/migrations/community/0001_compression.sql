-- What only the Community edition can do: compressed slices.
ALTER TABLE log.events SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'shard',
    timescaledb.compress_orderby = 'occurred_at, event_id'
);
