//! A database for each test.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use uuid::Uuid;
use views::{Entry, Options, Policies, Views};

/// A database of one's own, empty but for what `Views::migrate` puts there.
pub struct Database {
    pub views: Views,
    pub url: String,
}

impl Database {
    /// A connection past the pool.
    pub async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Applies all of `entries` in one batch.
    pub async fn apply(&self, entries: &[Entry]) -> views::Applied {
        self.views.apply(entries).await.unwrap()
    }

    /// Everything that readers see, as text, a line per row.
    pub async fn dump(&self) -> String {
        dump(&mut self.connection().await).await
    }
}

pub async fn dump(connection: &mut PgConnection) -> String {
    let mut text = String::new();
    for (table, order) in [
        ("recordings", "id"),
        ("transcripts", "recording, generation"),
        ("segments", "recording, generation, channel, index"),
    ] {
        let sql = format!("SELECT t::text AS line FROM read.{table} t ORDER BY {order}");
        for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *connection).await.unwrap() {
            text += &format!("{table}: {}\n", row.get::<String, _>("line"));
        }
    }
    text
}

/// Runs `test` with a database that is prepared, and drops the database whatever happens.
pub fn with_database<F: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(Database) -> F + Send + 'static,
) {
    with_empty_database(|database| async {
        database.views.migrate(&Policies::default()).await.unwrap();
        test(database).await;
    });
}

/// Runs `test` with a database in which nothing is.
pub fn with_empty_database<F: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(Database) -> F + Send + 'static,
) {
    let Ok(server) = std::env::var("VOICEFORGE_TEST_POSTGRES") else {
        eprintln!("skipped: VOICEFORGE_TEST_POSTGRES names no PostgreSQL server");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let name = format!("views_{}", Uuid::new_v4().simple());
        let mut admin = PgConnection::connect(&server).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
        let url = replace_database(&server, &name);
        let views = Views::connect(&url, &options()).await.unwrap();
        let database = Database { views, url };
        let outcome = tokio::spawn(test(database)).await;
        let sql = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
        if let Err(error) = outcome {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

pub fn options() -> Options {
    Options { max_connections: 4, statement_timeout: Duration::from_secs(20), ..Options::default() }
}

/// The URL of another database on the same server.
fn replace_database(url: &str, name: &str) -> String {
    let (rest, query) = url.split_once('?').map_or((url, ""), |(rest, query)| (rest, query));
    let (server, _) = rest.rsplit_once('/').expect("the URL names a database");
    format!("{server}/{name}?{query}")
}
