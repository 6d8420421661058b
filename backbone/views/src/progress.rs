//! How far each shard's log is archived, and which drops reached their end: what the keeper asks.

use std::collections::HashMap;

use events::Shard;
use sqlx::Row;
use transcript::Status;

use crate::database::Views;
use crate::error::Error;
use crate::state::unsigned;

/// How far one shard's log is folded and archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The shard.
    pub shard: Shard,
    /// The highest seq seen.
    pub max_seq: u64,
    /// Every seq from 1 to this one was seen; 0 when the first one is missing.
    pub contiguous_seq: u64,
    /// Events applied.
    pub applied: u64,
    /// The seqs below `max_seq` that are missing, as first and last.
    pub gaps: Vec<(u64, u64)>,
}

impl Views {
    /// Returns how far each shard is.
    ///
    /// # Errors
    /// What the database says.
    pub async fn checkpoints(&self) -> Result<Vec<Checkpoint>, Error> {
        let rows = sqlx::query(
            "SELECT shard, applied, coalesce(upper(seen) - 1, 0) AS max_seq, \
             coalesce((SELECT upper(r) - 1 FROM unnest(seen) AS r WHERE lower(r) <= 1), 0) AS contiguous_seq, \
             ARRAY(SELECT lower(r) FROM unnest(int8multirange(int8range(1, upper(seen))) - seen) AS r) AS gaps_first, \
             ARRAY(SELECT upper(r) - 1 FROM unnest(int8multirange(int8range(1, upper(seen))) - seen) AS r) AS gaps_last \
             FROM (SELECT shard, applied, seen * '{[1,)}'::int8multirange AS seen FROM control.checkpoints) AS c \
             ORDER BY shard",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut checkpoints = Vec::new();
        for row in rows {
            let number = |column| Ok::<u64, Error>(unsigned(row.try_get(column)?));
            let [first, last]: [Vec<i64>; 2] = [row.try_get("gaps_first")?, row.try_get("gaps_last")?];
            checkpoints.push(Checkpoint {
                shard: Shard(u16::try_from(row.try_get::<i32, _>("shard")?).unwrap_or_default()),
                max_seq: number("max_seq")?,
                contiguous_seq: number("contiguous_seq")?,
                applied: number("applied")?,
                gaps: first.into_iter().zip(last).map(|(a, b)| (unsigned(a), unsigned(b))).collect(),
            });
        }
        Ok(checkpoints)
    }

    /// Returns the seq up to which every event of the shard is archived, 0 for none: the log may be trimmed to there.
    ///
    /// # Errors
    /// What the database says.
    pub async fn archived_through(&self, shard: Shard) -> Result<u64, Error> {
        let sql = "SELECT upper(r) - 1 FROM control.checkpoints, unnest(seen) AS r \
                   WHERE shard = $1 AND r @> 1::bigint";
        let seq: Option<i64> =
            sqlx::query_scalar(sql).bind(i32::from(shard.0)).fetch_optional(&self.pool).await?;
        Ok(seq.map_or(0, unsigned))
    }

    /// Returns [`Views::archived_through`] of shards 0 to `shards` - 1, in their order.
    ///
    /// # Errors
    /// What the database says.
    pub async fn all_archived_through(&self, shards: u16) -> Result<Vec<u64>, Error> {
        let mut archived = vec![0; usize::from(shards)];
        for checkpoint in self.checkpoints().await? {
            if let Some(seq) = archived.get_mut(usize::from(checkpoint.shard.0)) {
                *seq = checkpoint.contiguous_seq;
            }
        }
        Ok(archived)
    }

    /// Returns how many places of each shard's log had two events: the log was rolled back after the first was read.
    /// Shards without any are left out.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count_conflicts(&self) -> Result<HashMap<Shard, u64>, Error> {
        let sql = "SELECT shard, count(*) AS places FROM control.conflicts GROUP BY shard";
        let mut places = HashMap::new();
        for row in sqlx::query(sql).fetch_all(&self.pool).await? {
            let shard = u16::try_from(row.try_get::<i32, _>("shard")?).unwrap_or_default();
            places.insert(Shard(shard), unsigned(row.try_get("places")?));
        }
        Ok(places)
    }

    /// Notes that seqs `first..=last` of a shard's log are lost, and why, so that nothing waits for them.
    ///
    /// # Errors
    /// What the database says.
    pub async fn declare_gap(&self, shard: Shard, first: u64, last: u64, reason: &str) -> Result<(), Error> {
        let [Ok(first), Ok(last)] = [first, last].map(i64::try_from) else { return Ok(()) };
        if first > last || last == i64::MAX {
            return Ok(());
        }
        sqlx::query(
            "WITH noted AS (INSERT INTO control.gaps (shard, first_seq, last_seq, reason) \
                            VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING) \
             INSERT INTO control.checkpoints (shard, seen, applied) \
             VALUES ($1, int8multirange(int8range($2, $3, '[]')), 0) \
             ON CONFLICT (shard) DO UPDATE SET seen = checkpoints.seen + excluded.seen",
        )
        .bind(i32::from(shard.0))
        .bind(first)
        .bind(last)
        .bind(reason.replace('\0', " "))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Returns which of the drops reached their end, and which end. A drop that is not in the answer is still on its
    /// way, or was never seen.
    ///
    /// # Errors
    /// What the database says.
    pub async fn finished_drops(&self, drop_ids: &[String]) -> Result<HashMap<String, Status>, Error> {
        let ends: Vec<&str> =
            Status::ALL.iter().filter(|status| status.is_final()).map(|s| s.as_str()).collect();
        let askable: Vec<&String> = drop_ids.iter().filter(|id| !id.contains('\0')).collect();
        let sql = "SELECT drop_id, status FROM read.recordings WHERE drop_id = ANY($1) AND status = ANY($2) \
                   ORDER BY submitted_at, id";
        let rows = sqlx::query(sql).bind(askable).bind(ends).fetch_all(&self.pool).await?;
        let mut finished = HashMap::new();
        for row in rows {
            let status: &str = row.try_get("status")?;
            let status = status.parse().map_err(|error| Error::Corrupt(format!("{error}")))?;
            finished.insert(row.try_get("drop_id")?, status);
        }
        Ok(finished)
    }
}
