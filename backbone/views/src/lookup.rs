//! Questions by key, asked thousands of times a second on connections of their own: not tested before and after each use,
//! and not planned anew each time.
//!
//! A server that restarted has closed the idle ones. A question that finds that out is asked again on the next one and
//! in the end on a new one, so it fails no more often than on a connection that was tested first. Questions change
//! nothing, so one whose answer was lost may be asked again.
//!
//! No pool of a library does this. That of `sqlx` pings a connection whenever it comes back, whatever its options say, and
//! spawns a task for it: a second round trip for each question of one. General pools (`deadpool`, `bb8`) take back a
//! connection whose question was given up in the middle, with the rest of its answer still to come; to keep it from the
//! next question they must be told of each one's state, and then what is left of them is the list and the semaphore below.
//! Here a connection is owned by its question and comes back only with the whole answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, Postgres};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::database::Options;
use crate::error::Error;
use crate::limited;

/// Connections at most. A question keeps a processor of the server busy for a fraction of a millisecond: more would only
/// wait there instead of here.
const MOST: u32 = 4;
/// An idle connection that rested for so long is tested before use: the network may have forgotten it.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long the test may take; a new connection is not far.
const TEST_PATIENCE: Duration = Duration::from_secs(1);

/// The connections.
pub(crate) struct Lookups {
    /// Makes connections, with its patience for a server that is starting; it keeps none.
    source: PgPool,
    idle: Mutex<Vec<(PgConnection, Instant)>>,
    permits: Arc<Semaphore>,
    /// How long a connection is waited for.
    patience: Duration,
    /// How long an answer is waited for: longer than the server may take for it.
    limit: Duration,
}

impl Lookups {
    /// Makes connections when they are needed.
    pub fn new(connect: &PgConnectOptions, options: &Options) -> Lookups {
        let connect = connect.clone().options([("plan_cache_mode", "force_generic_plan")]);
        Lookups {
            source: PgPoolOptions::new()
                .max_connections(MOST)
                .acquire_timeout(options.acquire_timeout)
                .connect_lazy_with(connect),
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(MOST as usize)),
            patience: options.acquire_timeout,
            limit: options.statement_timeout + limited::MARGIN,
        }
    }

    /// Asks; `bind` gives the arguments, once for each try.
    ///
    /// # Errors
    /// What the database says.
    pub async fn ask(
        &self,
        sql: &'static str,
        bind: impl for<'q> Fn(Query<'q, Postgres, PgArguments>) -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, Error> {
        let permit = timeout(self.patience, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        loop {
            let (mut connection, is_new) = match self.rested().await {
                Some(connection) => (connection, false),
                None => (self.source.acquire().await?.detach(), true),
            };
            // A connection that is silent is dropped with the question.
            let answer = timeout(self.limit, bind(sqlx::query(sql)).fetch_all(&mut connection)).await;
            match answer.map_err(|_| limited::no_answer_within(self.limit))? {
                Ok(rows) => {
                    self.lock().push((connection, Instant::now()));
                    return Ok(rows);
                }
                Err(error) if is_lost(&error) && !is_new => {}
                Err(error) => {
                    if !is_lost(&error) {
                        self.lock().push((connection, Instant::now()));
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Takes an idle connection, the one that was used last.
    async fn rested(&self) -> Option<PgConnection> {
        loop {
            let (mut connection, since) = self.lock().pop()?;
            if since.elapsed() < TRUSTED {
                return Some(connection);
            }
            if let Ok(Ok(())) = timeout(TEST_PATIENCE, connection.ping()).await {
                return Some(connection);
            }
        }
    }

    /// Ends all connections that are idle.
    pub async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.lock());
        for (connection, _) in idle {
            // A connection that cannot be ended in order is ended already.
            let _ = connection.close().await;
        }
        self.source.close().await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(PgConnection, Instant)>> {
        // Every statement leaves the list whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says whether an error means that the connection is of no use any more.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            // Connection lost; ended by an administrator, in a crash, while starting, or after a long rest; or what it has
            // prepared is of before the views of `read` had other columns.
            let code = error.code().unwrap_or_default();
            code.starts_with("08") || matches!(&*code, "57P01" | "57P02" | "57P03" | "57P05" | "0A000")
        }
        sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } => false,
        // What is not an answer of the server leaves it unknown where in its protocol the connection stands.
        _ => true,
    }
}
