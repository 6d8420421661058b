//! Migrations and policies; what the server has, and what is missing.

use std::fmt;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};

use crate::database::Views;
use crate::error::Error;
use crate::projections::{self, Features};
use crate::schema::Schema;

/// What is done with old data. Only with TimescaleDB's Community edition.
#[derive(Clone, Debug)]
pub struct Policies {
    /// Drops archived events after this time; `None` keeps them. Without them no replay goes back that far.
    pub retain_events: Option<Duration>,
    /// Drops segments this long after their recording was submitted; `None` keeps them.
    pub retain_segments: Option<Duration>,
    /// Compresses archived events after this time; `None` never.
    pub compress_events_after: Option<Duration>,
    /// Compresses segments after this time; `None` never. Search has no index in compressed slices: it reads them.
    pub compress_segments_after: Option<Duration>,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Policies {
    fn default() -> Policies {
        Policies {
            retain_events: None,
            retain_segments: None,
            compress_events_after: Some(7 * DAY),
            compress_segments_after: Some(90 * DAY),
        }
    }
}

/// What the database offers, to be said once at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The server's version.
    pub postgres: String,
    /// The version of the TimescaleDB extension, if it is there.
    pub timescale: Option<String>,
    /// What does not work for want of something, a sentence each.
    pub missing: Vec<String>,
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}", self.postgres)?;
        match &self.timescale {
            Some(version) => write!(f, " with TimescaleDB {version}")?,
            None => write!(f, " without TimescaleDB")?,
        }
        self.missing.iter().try_for_each(|missing| write!(f, "; {missing}"))
    }
}

/// One after the other, several programs that start at once. A number of our own.
const INSTALL_LOCK: i64 = i64::from_be_bytes(*b"voicefge");

/// How often preparing is tried, where the server's locks do not keep programs apart.
const INSTALL_ATTEMPTS: u32 = 5;

fn base() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations/base");
    migrator.create_schema("control");
    migrator.dangerous_set_table_name("control.migrations");
    migrator.set_locking(false);
    migrator
}

fn timescale() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations/timescale");
    migrator.dangerous_set_table_name("control.migrations_timescale");
    migrator.set_locking(false);
    migrator
}

fn community() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations/community");
    migrator.dangerous_set_table_name("control.migrations_community");
    migrator.set_locking(false);
    migrator
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl Views {
    /// Brings the database to this program's version and sets the policies. Several programs may do so at once.
    ///
    /// # Errors
    /// [`Error::Newer`] when a newer release was here before.
    pub async fn migrate(&self, policies: &Policies) -> Result<Installed, Error> {
        let mut attempt = 1;
        loop {
            // A connection of its own: the lock goes with it, whatever happens.
            let mut connection = self.patient_connection().await?;
            let outcome = install(&mut connection, policies).await;
            let _ = connection.close().await;
            match outcome {
                Err(error) if attempt < INSTALL_ATTEMPTS && is_race(&error) => {
                    tracing::debug!(%error, attempt, "another program prepares the database");
                    tokio::time::sleep(Duration::from_millis(100) * attempt).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Says whether the database is there and at this program's version.
    ///
    /// # Errors
    /// [`Error::NotInstalled`], [`Error::Newer`], or what the connection says.
    pub async fn check(&self) -> Result<(), Error> {
        let sql = "SELECT max(version) FROM control.migrations";
        let database: Option<i64> = sqlx::query_scalar(sql).fetch_one(&self.pool).await?;
        let program = newest(&base());
        match database.unwrap_or(0) {
            database if database > program => Err(Error::Newer { database, program }),
            database if database < program => Err(Error::NotInstalled),
            _ => Ok(()),
        }
    }
}

impl Views {
    /// Opens a connection of its own without a limit on the time of a statement.
    pub(crate) async fn patient_connection(&self) -> Result<PgConnection, Error> {
        Ok((*self.connect).clone().options([("statement_timeout", "0")]).connect().await?)
    }
}

async fn install(connection: &mut PgConnection, policies: &Policies) -> Result<Installed, Error> {
    sqlx::query("SELECT pg_advisory_lock($1)").bind(INSTALL_LOCK).execute(&mut *connection).await?;
    run(connection, &base(), "control.migrations").await?;

    let server = Server::ask(connection).await?;
    let features = server.features;
    let mut missing = Vec::new();
    match (features.timescale, features.community) {
        (true, true) => {
            run(connection, &timescale(), "control.migrations_timescale").await?;
            run(connection, &community(), "control.migrations_community").await?;
        }
        (true, false) => {
            run(connection, &timescale(), "control.migrations_timescale").await?;
            missing.push(
                "this is TimescaleDB's Apache-2 edition: old data is neither compressed nor dropped by policies, \
                 and usage is added up at each read (the Community edition does all that)"
                    .to_owned(),
            );
        }
        (false, _) => {
            let remedy = match server.available {
                true => "it is available here: CREATE EXTENSION timescaledb, then start again",
                false => "install it for large archives",
            };
            missing.push(format!(
                "plain tables: old data is neither compressed nor dropped by policies, and usage is added up at each \
                 read ({remedy})"
            ));
        }
    }
    projections::install(connection, features).await?;
    let serving: String =
        sqlx::query_scalar("SELECT schema FROM control.projections WHERE state = 'serving'")
            .fetch_one(&mut *connection)
            .await?;
    let serving: Schema = serving.parse()?;
    if features.community {
        set_policies(connection, &serving, policies).await?;
    }
    if let Err(error) = projections::index_unspaced(connection, &serving).await {
        tracing::debug!(%error, "no trigram index");
        missing.push(
            "no pg_trgm extension: search in languages without spaces (Chinese, Japanese, Thai ...) reads every \
             segment"
                .to_owned(),
        );
    }
    let released =
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(INSTALL_LOCK).execute(&mut *connection).await;
    released?;
    Ok(Installed { postgres: server.postgres, timescale: server.timescale, missing })
}

/// What the server says of itself.
pub(crate) struct Server {
    postgres: String,
    timescale: Option<String>,
    /// Whether TimescaleDB could be had for the asking.
    available: bool,
    pub features: Features,
}

impl Server {
    /// Asks, and sees to it that this session finds the extension's functions whichever schema it was put in.
    pub async fn ask(connection: &mut PgConnection) -> Result<Server, Error> {
        let row = sqlx::query(
            "SELECT current_setting('server_version') AS postgres, \
             (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescale, \
             (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'timescaledb') AS schema, \
             EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb') AS available, \
             coalesce(current_setting('timescaledb.license', true), 'timescale') = 'timescale' AS community",
        )
        .fetch_one(&mut *connection)
        .await?;
        let timescale: Option<String> = row.try_get("timescale")?;
        if let Some(schema) = row.try_get::<Option<String>, _>("schema")? {
            let sql = "SELECT set_config('search_path', $1 || ', public', false)";
            sqlx::query(sql).bind(schema).execute(&mut *connection).await?;
        }
        let features = Features {
            timescale: timescale.is_some(),
            community: timescale.is_some() && row.try_get("community")?,
        };
        let (postgres, available) = (row.try_get("postgres")?, row.try_get("available")?);
        Ok(Server { postgres, timescale, available, features })
    }
}

async fn run(connection: &mut PgConnection, migrator: &Migrator, table: &'static str) -> Result<(), Error> {
    let sql = match table {
        "control.migrations" => "SELECT max(version) FROM control.migrations",
        "control.migrations_timescale" => "SELECT max(version) FROM control.migrations_timescale",
        _ => "SELECT max(version) FROM control.migrations_community",
    };
    let there = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(table)
        .fetch_one(&mut *connection)
        .await?;
    if there {
        let database: Option<i64> = sqlx::query_scalar(sql).fetch_one(&mut *connection).await?;
        let (database, program) = (database.unwrap_or(0), newest(migrator));
        if database > program {
            return Err(Error::Newer { database, program });
        }
    }
    Ok(migrator.run_direct(None, connection, false).await?)
}

/// Says whether another program was here: something is there, or gone, that was not a moment ago.
fn is_race(error: &Error) -> bool {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    let (Error::Refused(error) | Error::Migrate(Execute(error) | ExecuteMigration(error, _))) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|error| error.code());
    // Unique violation; duplicate object, schema, table or function; tuple concurrently updated; not there any more;
    // a view of another kind; a hypertable already.
    matches!(
        code.as_deref(),
        Some("23505" | "42710" | "42P06" | "42P07" | "42723" | "XX000" | "42P01" | "42809" | "TS110")
    )
}

async fn set_policies(
    connection: &mut PgConnection,
    serving: &Schema,
    policies: &Policies,
) -> Result<(), Error> {
    let segments = format!("{serving}.segments");
    for (table, after) in
        [("log.events", policies.compress_events_after), (&segments, policies.compress_segments_after)]
    {
        if !is_set(connection, table, "policy_compression", "compress_after", after).await? {
            sqlx::query("SELECT remove_compression_policy($1::text::regclass, if_exists => true)")
                .bind(table)
                .execute(&mut *connection)
                .await?;
            if let Some(after) = after {
                sqlx::query("SELECT add_compression_policy($1::text::regclass, make_interval(secs => $2))")
                    .bind(table)
                    .bind(after.as_secs_f64())
                    .execute(&mut *connection)
                    .await?;
            }
        }
    }
    for (table, after) in [("log.events", policies.retain_events), (&segments, policies.retain_segments)] {
        if !is_set(connection, table, "policy_retention", "drop_after", after).await? {
            sqlx::query("SELECT remove_retention_policy($1::text::regclass, if_exists => true)")
                .bind(table)
                .execute(&mut *connection)
                .await?;
            if let Some(after) = after {
                sqlx::query("SELECT add_retention_policy($1::text::regclass, make_interval(secs => $2))")
                    .bind(table)
                    .bind(after.as_secs_f64())
                    .execute(&mut *connection)
                    .await?;
            }
        }
    }
    Ok(())
}

/// Says whether a policy is as wanted: setting it again would start its schedule anew.
async fn is_set(
    connection: &mut PgConnection,
    table: &str,
    policy: &str,
    setting: &str,
    after: Option<Duration>,
) -> Result<bool, Error> {
    let (schema, name) = table.split_once('.').expect("tables are named with their schema");
    let set: Option<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM (config ->> $4)::interval)::float8 FROM timescaledb_information.jobs \
         WHERE hypertable_schema = $1 AND hypertable_name = $2 AND proc_name = $3",
    )
    .bind(schema)
    .bind(name)
    .bind(policy)
    .bind(setting)
    .fetch_optional(&mut *connection)
    .await?;
    Ok(set == after.map(|after| after.as_secs_f64()))
}
