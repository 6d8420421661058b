//! Rows that go from time slices which TimescaleDB has compressed.

use jiff::{SignedDuration, Timestamp};
use sqlx::PgConnection;

use crate::error::Error;
use crate::time::At;

/// How far the clocks of two machines are apart at most: an event may seem to happen so long before its recording was
/// submitted.
const CLOCKS_APART: SignedDuration = SignedDuration::from_hours(24);

/// Returns the time before which no event of a recording happened that was submitted at `submitted_at`, by any clock.
pub(crate) fn earliest(submitted_at: Timestamp) -> At {
    At::new(submitted_at.checked_sub(CLOCKS_APART).unwrap_or(Timestamp::MIN))
}

/// Lets this transaction take rows from compressed slices however many lie beside them: a batch of up to a thousand is
/// taken apart for one row, and after 100,000 rows the extension refuses to go on
/// (`timescaledb.max_tuples_decompressed_per_dml_transaction`). Elsewhere nothing happens.
pub(crate) async fn lift_limit(connection: &mut PgConnection) -> Result<(), Error> {
    const SETTING: &str = "timescaledb.max_tuples_decompressed_per_dml_transaction";
    let sql = "SELECT set_config($1, '0', true) WHERE current_setting($1, true) IS NOT NULL";
    sqlx::query(sql).bind(SETTING).execute(connection).await?;
    Ok(())
}
