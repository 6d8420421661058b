//! Timestamps between events (nanoseconds) and SQL (microseconds).

use events::Envelope;
use jiff::Timestamp;
use serde::Serialize;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// A `timestamptz`: whole microseconds, rounded down, so that every program names the same row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub(crate) struct At(pub Timestamp);

/// Microseconds from 1970 to 2000, where PostgreSQL counts from.
const EPOCH_US: i64 = 946_684_800_000_000;

impl At {
    /// Makes a time of SQL.
    pub fn new(timestamp: Timestamp) -> At {
        At::from_us(timestamp.as_nanosecond().div_euclid(1_000) as i64).unwrap_or(At(Timestamp::MIN))
    }

    /// When the recording of `envelope` was submitted.
    pub fn submitted(envelope: &Envelope) -> At {
        At::new(envelope.submitted_at)
    }

    /// Microseconds since 1970.
    pub fn us(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Microseconds since 2000, where PostgreSQL counts from.
    pub fn since_2000_us(self) -> i64 {
        self.us() - EPOCH_US
    }

    /// Makes a time from microseconds since 1970; `None` outside the years -9999 to 9999.
    pub fn from_us(us: i64) -> Option<At> {
        Timestamp::from_microsecond(us).ok().map(At)
    }
}

impl From<Timestamp> for At {
    fn from(timestamp: Timestamp) -> At {
        At::new(timestamp)
    }
}

impl Type<Postgres> for At {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl PgHasArrayType for At {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_timestamptz")
    }
}

impl Encode<'_, Postgres> for At {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(self.since_2000_us(), buffer)
    }
}

impl Decode<'_, Postgres> for At {
    fn decode(value: PgValueRef<'_>) -> Result<At, BoxDynError> {
        let us: i64 = Decode::<Postgres>::decode(value)?;
        us.checked_add(EPOCH_US).and_then(At::from_us).ok_or_else(|| "time out of range".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_are_rounded_down_before_and_after_1970() {
        for (nanoseconds, us) in [(1_999, 1), (0, 0), (-1, -1), (-1_001, -2)] {
            assert_eq!(At::new(Timestamp::from_nanosecond(nanoseconds).unwrap()).us(), us);
        }
    }
}
