//! The way in: a pool of connections.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::error::Error;
use crate::limited::LimitedPool;
use crate::lookup::Lookups;
use crate::watch::Notifier;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections at most, besides the one that listens and four for questions by key.
    pub max_connections: u32,
    /// The server ends a statement after this time.
    pub statement_timeout: Duration,
    /// The server ends a session that leaves a transaction lying for this time.
    pub idle_in_transaction_timeout: Duration,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// Who the server's lists say is connected.
    pub application_name: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_connections: 8,
            statement_timeout: Duration::from_secs(30),
            idle_in_transaction_timeout: Duration::from_secs(60),
            acquire_timeout: Duration::from_secs(10),
            application_name: "voiceforge".to_owned(),
        }
    }
}

/// The database. Cheap to clone; all clones share one pool and one listener.
///
/// Time limits are the server's; ours only notice a server that cannot say that it ended a statement. Whatever is given up
/// loses its connection, because that may be inside a transaction.
#[derive(Clone)]
pub struct Views {
    pub(crate) pool: LimitedPool,
    pub(crate) connect: Arc<PgConnectOptions>,
    pub(crate) lookups: Arc<Lookups>,
    pub(crate) notifier: Arc<Notifier>,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Views({}:{})", self.connect.get_host(), self.connect.get_port())
    }
}

impl Views {
    /// Connects to the database at `url`.
    ///
    /// # Errors
    /// [`Error::Url`] for a URL that cannot work; [`Error::Unavailable`] when the server does not answer, to be tried
    /// again.
    pub async fn connect(url: &str, options: &Options) -> Result<Views, Error> {
        let connect = PgConnectOptions::from_str(url)
            .map_err(Error::Url)?
            .application_name(&options.application_name)
            .options([
                ("statement_timeout", options.statement_timeout.as_millis().to_string()),
                (
                    "idle_in_transaction_session_timeout",
                    options.idle_in_transaction_timeout.as_millis().to_string(),
                ),
                // Facts are acknowledged once COMMIT has answered, and then nobody has them but the database. A server
                // set to answer before the commit is in its log would lose them with its process.
                ("synchronous_commit", "on".to_owned()),
                // Filters that are switched off by null arguments are planned for the arguments at hand.
                ("plan_cache_mode", "force_custom_plan".to_owned()),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
            .connect_lazy_with(connect.clone());
        let pool = LimitedPool::new(pool, options.statement_timeout);
        let notifier =
            Notifier::new(PgPoolOptions::new().max_connections(1).connect_lazy_with(connect.clone()));
        let lookups = Arc::new(Lookups::new(&connect, options));
        let views = Views { pool, connect: Arc::new(connect), lookups, notifier: Arc::new(notifier) };
        views.ping().await?;
        Ok(views)
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none.
    pub async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Ends all connections, after the statements in hand.
    pub async fn close(&self) {
        self.notifier.close().await;
        self.lookups.close().await;
        self.pool.close().await;
    }
}
