-- What only the Community edition can do: compressed slices. In the order of a shard's log, which a rebuild reads, and by
-- time, by which a late event finds whether it is there.
ALTER TABLE log.events SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'shard',
    timescaledb.compress_orderby = 'seq, occurred_at, event_id'
);
