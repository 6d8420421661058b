//! What tenants used, hour by hour.

use events::Tenant;
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Row};

use crate::database::Views;
use crate::error::Error;
use crate::state::unsigned;
use crate::time::At;

/// One tenant's use of recordings submitted within one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// When the hour begins.
    pub hour: Timestamp,
    /// Whose use it is.
    pub tenant: Tenant,
    /// Recordings submitted.
    pub recordings: u64,
    /// Milliseconds of their audio.
    pub audio_ms: u64,
    /// Transcriptions of them, later generations included.
    pub transcripts: u64,
    /// Milliseconds of segments with text, in all transcriptions.
    pub transcribed_ms: u64,
    /// Segments that ended without text, in all transcriptions.
    pub failed_segments: u64,
}

impl Views {
    /// Returns the use of `tenant`, or of all, in hours that begin in `from..until`.
    ///
    /// # Errors
    /// What the database says.
    pub async fn usage(
        &self,
        tenant: Option<&Tenant>,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Usage>, Error> {
        let rows = sqlx::query(
            "SELECT hour, tenant, recordings, audio_ms, transcripts, transcribed_ms, failed_segments \
             FROM read.usage_hourly WHERE hour >= $1 AND hour < $2 AND ($3::text IS NULL OR tenant = $3) \
             ORDER BY hour, tenant",
        )
        .bind(At::new(from))
        .bind(At::new(until))
        .bind(tenant.map(Tenant::as_str))
        .fetch_all(&self.pool)
        .await?;
        let mut usage = Vec::new();
        for row in rows {
            let tenant: String = row.try_get("tenant")?;
            let number = |column| Ok::<u64, Error>(unsigned(row.try_get(column)?));
            usage.push(Usage {
                hour: row.try_get::<At, _>("hour")?.0,
                tenant: tenant.parse().map_err(|error| Error::Corrupt(format!("{error}")))?,
                recordings: number("recordings")?,
                audio_ms: number("audio_ms")?,
                transcripts: number("transcripts")?,
                transcribed_ms: number("transcribed_ms")?,
                failed_segments: number("failed_segments")?,
            });
        }
        Ok(usage)
    }

    /// Adds up the hours in `from..until` anew, as late writes to old hours need with TimescaleDB. Elsewhere usage is
    /// added up when it is read, and this does nothing.
    ///
    /// # Errors
    /// What the database says.
    pub async fn refresh_usage(&self, from: Timestamp, until: Timestamp) -> Result<(), Error> {
        let schema = self.serving().await?;
        let sql = schema.sql(
            "SELECT e.extnamespace::regnamespace::text FROM pg_extension e \
             JOIN pg_class v ON v.oid = '{schema}.usage_hourly'::regclass \
             WHERE e.extname = 'timescaledb' AND pg_get_viewdef(v.oid) ~ '_materialized_hypertable_'",
        );
        let extension: Option<String> = sqlx::query_scalar(sql).fetch_optional(&self.pool).await?;
        if let Some(extension) = extension {
            // A schema's name as the server quoted it.
            let sql = AssertSqlSafe(format!(
                "CALL {extension}.refresh_continuous_aggregate('{schema}.usage_hourly', $1::timestamptz, \
                 $2::timestamptz)"
            ));
            sqlx::query(sql).bind(At::new(from)).bind(At::new(until)).execute(&self.pool).await?;
        }
        Ok(())
    }
}
