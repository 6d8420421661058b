//! What can go wrong, told apart by what the caller can do about it.

use events::{EventId, Shard};

use crate::entry::EntryError;
use crate::schema::Schema;

/// A database call that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one of a PostgreSQL database.
    #[error("the database URL cannot be used: {0}; the form is postgres://user:password@host:port/database")]
    Url(#[source] sqlx::Error),
    /// The database is not to be had just now: lost connection, restart, conflict, time limit, full disk.
    #[error("the database cannot do it now: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The tables are not there yet, or are older than this program.
    #[error("the database is not prepared for this program; start voiceforge-project once, it prepares it")]
    NotInstalled,
    /// The database was prepared by a newer release.
    #[error(
        "the database is at version {database}, newer than this program knows ({program}); use the newer release"
    )]
    Newer {
        /// The version of the tables.
        database: i64,
        /// The newest version this program knows.
        program: i64,
    },
    /// The tables that serve are those of another release.
    #[error(
        "{schema} has tables of layout {layout} and this program writes layout {program}: {}",
        if layout < program { "run `voiceforge reproject` of this release" } else { "use the newer release of this program" }
    )]
    Layout {
        /// The version that serves.
        schema: Schema,
        /// The shape of its tables.
        layout: i32,
        /// The shape this program writes.
        program: i32,
    },
    /// A version of the read side is being built by another program, or is not being built any more.
    #[error(
        "{0} is no longer this program's to build: another one goes on with it, or it serves, or it was dropped"
    )]
    Taken(Schema),
    /// There is no such version of the read side.
    #[error("there is no {0}")]
    NoVersion(Schema),
    /// The version of the read side that serves cannot be dropped.
    #[error("{0} serves; only a version that was replaced, or one that is not finished, can be dropped")]
    Serves(Schema),
    /// An event in the archive that cannot be folded.
    #[error("event {event_id} in the archive (shard {shard}, seq {seq}): {source}")]
    Event {
        /// The event.
        event_id: EventId,
        /// The shard in whose log it stood.
        shard: Shard,
        /// Its place there.
        seq: u64,
        /// Why.
        source: EntryError,
    },
    /// A migration did not work.
    #[error("prepare the database: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A row that this program did not write, or a newer one wrote.
    #[error("the database holds a value that cannot be read: {0}")]
    Corrupt(String),
    /// Anything else that the server refused.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
    /// The task that held the transaction died.
    #[error("a database task died: {0}")]
    Task(String),
}

impl Error {
    /// Says whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::NotInstalled | Error::Layout { .. })
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        if is_missing_table(&error) {
            Error::NotInstalled
        } else if is_transient(&error) {
            Error::Unavailable(error)
        } else {
            Error::Refused(error)
        }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Error {
        use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
        match error {
            Execute(error) | ExecuteMigration(error, _) if is_transient(&error) => Error::Unavailable(error),
            error => Error::Migrate(error),
        }
    }
}

/// A batch that was not applied. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Try the same batch again after a pause.
    #[error(transparent)]
    Retry(Error),
    /// Trying again will not help. Apply the entries one by one to find the one that is refused.
    #[error(transparent)]
    Fatal(Error),
}

impl From<Error> for ApplyError {
    fn from(error: Error) -> ApplyError {
        if error.is_transient() { ApplyError::Retry(error) } else { ApplyError::Fatal(error) }
    }
}

/// Says whether an error is of the moment. Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let class = code.get(..2).unwrap_or_default();
            // Connection lost; serialization failure and deadlock; out of disk, memory or connections; system error.
            matches!(class, "08" | "40" | "53" | "58")
                // Lock not available; in a broken transaction, idle too long; read-only, as a replica is after a
                // failover; cancelled by a time limit; server shutting down, crashed or starting.
                || matches!(
                    &*code,
                    "55P03" | "25P02" | "25P03" | "25006" | "57014" | "57P01" | "57P02" | "57P03" | "57P05"
                )
        }
        _ => false,
    }
}

/// Undefined schema or table.
fn is_missing_table(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("3F000" | "42P01"))
}
