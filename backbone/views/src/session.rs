//! A connection taken for one transaction.

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

/// Goes back to the pool only when it is known to be outside of any transaction. Dropped before, by an error or because
/// nobody waits any more, the connection is closed: the server rolls back, and a half-open one is used by nobody else.
pub(crate) struct Session(Option<PoolConnection<Postgres>>);

impl Session {
    /// Takes a connection.
    pub async fn open(pool: &PgPool) -> Result<Session, sqlx::Error> {
        Ok(Session(Some(pool.acquire().await?)))
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("only close() and drop() take it")
    }

    /// Gives it back after a transaction that was committed.
    pub fn close(mut self) {
        self.0 = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
