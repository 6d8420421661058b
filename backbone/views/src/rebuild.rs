//! A new version of the read side beside the one that serves: making it, folding into it, comparing it, switching to it,
//! dropping it.
//!
//! Everything it holds is of the database: how far it is ([`Building::positions`]) moves in the transaction of the rows, so
//! a program that dies leaves a version that another one goes on with. Nobody is told of what is folded here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use events::{RecordingId, Shard};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::archive::{self, signed};
use crate::database::Views;
use crate::entry::Entry;
use crate::error::Error;
use crate::fold::fold;
use crate::install::Server;
use crate::projections::{self, LAYOUT, Stand};
use crate::schema::Schema;
use crate::state::unsigned;
use crate::time::At;
use crate::verify::{self, Difference, Mark, Recordings, Table};

/// A version of the read side that is being built.
#[derive(Clone, Debug)]
pub struct Building {
    views: Views,
    schema: Schema,
    created_at: At,
}

/// How far a version is in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Everything archived up to this seq is folded.
    pub seq: u64,
    /// Events folded.
    pub events: u64,
}

/// What came of an attempt to switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switched {
    /// Readers see the new version and new facts go into it.
    Done,
    /// Somebody else has the tables in hand, or too much came in meanwhile: catch up and try again.
    Busy,
    /// These rows are not those of the version that serves. Nothing was changed.
    Differs(Vec<Difference>),
}

/// The most events that are folded while everything waits for the switch.
const TAIL_LEN_MAX: i64 = 5_000;

/// What the server may use to make an index, where it is set to use less.
const INDEX_MEMORY: &str = "256MB";

/// How far back of a version's beginning an event may have been noted by a transaction that ended after it.
const TRANSACTION_MAX: Duration = Duration::from_secs(600);

impl Views {
    /// Returns the version that is being built.
    ///
    /// # Errors
    /// [`Error::Layout`] when another release began it.
    pub async fn building(&self) -> Result<Option<Building>, Error> {
        let sql = "SELECT schema, layout, created_at FROM control.projections WHERE state = 'building'";
        let Some(row) = sqlx::query(sql).fetch_optional(&self.pool).await? else { return Ok(None) };
        let (schema, layout): (Schema, i32) =
            (row.try_get::<&str, _>("schema")?.parse()?, row.try_get("layout")?);
        if layout != LAYOUT {
            return Err(Error::Layout { schema, layout, program: LAYOUT });
        }
        Ok(Some(Building { views: self.clone(), schema, created_at: row.try_get("created_at")? }))
    }

    /// Returns the version that is being built, or begins the next one.
    ///
    /// # Errors
    /// As [`building`](Views::building).
    pub async fn build(&self) -> Result<Building, Error> {
        if let Some(building) = self.building().await? {
            return Ok(building);
        }
        let last = self.projections().await?.pop().ok_or(Error::NotInstalled)?;
        let schema = last.schema.next();
        let mut connection = self.patient_connection().await?;
        let server = Server::ask(&mut connection).await?;
        let mut transaction = connection.begin().await?;
        projections::create(&mut transaction, &schema, Stand::Building, server.features).await?;
        transaction.commit().await?;
        connection.close().await?;
        self.building().await?.ok_or(Error::Taken(schema))
    }

    /// Drops a version that does not serve, with all it holds.
    ///
    /// # Errors
    /// [`Error::Serves`], [`Error::NoVersion`].
    pub async fn drop_version(&self, schema: &Schema) -> Result<(), Error> {
        let mut connection = self.patient_connection().await?;
        let mut transaction = connection.begin().await?;
        let sql = "SELECT state FROM control.projections WHERE schema = $1 FOR UPDATE";
        let state: Option<String> =
            sqlx::query_scalar(sql).bind(schema.to_string()).fetch_optional(&mut *transaction).await?;
        match state.as_deref() {
            None => return Err(Error::NoVersion(schema.clone())),
            Some("serving") => return Err(Error::Serves(schema.clone())),
            Some(_) => {}
        }
        sqlx::raw_sql(schema.sql("DROP SCHEMA IF EXISTS {schema} CASCADE"))
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM control.projections WHERE schema = $1")
            .bind(schema.to_string())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(connection.close().await?)
    }
}

impl Building {
    /// Its name.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Returns how far it is, by shard.
    ///
    /// # Errors
    /// What the database says.
    pub async fn positions(&self) -> Result<BTreeMap<Shard, Position>, Error> {
        positions(&mut *self.views.pool.acquire().await?, &self.schema).await
    }

    /// Folds entries of a shard in one transaction and moves its position from `from` to `through`. An entry may be
    /// folded again. Runs in a task of its own: dropping the future does not interrupt it.
    ///
    /// # Errors
    /// [`Error::Taken`] when the position is another: somebody else builds.
    pub async fn fold(
        &self,
        shard: Shard,
        from: u64,
        through: u64,
        entries: Vec<Entry>,
    ) -> Result<(), Error> {
        let building = self.clone();
        let folding = tokio::spawn(async move {
            let mut transaction = building.views.pool.begin().await?;
            // What a crash of the server takes with it is folded again: the position goes with the rows.
            sqlx::query("SET LOCAL synchronous_commit TO off").execute(&mut *transaction).await?;
            building.advance(&mut transaction, shard, from, through, entries.len()).await?;
            fold(&mut transaction, &building.schema, &entries).await?;
            Ok(transaction.commit().await?)
        });
        folding.await.unwrap_or_else(|error| Err(Error::Task(error.to_string())))
    }

    /// Returns the entries that came to a place which was passed already, since this version was begun: another event had
    /// the seq, or it was taken for lost. Who follows the seqs misses them.
    ///
    /// # Errors
    /// [`Error::Event`] for one that cannot be read.
    pub async fn stragglers(&self) -> Result<Vec<Entry>, Error> {
        archive::stragglers(&mut *self.views.pool.acquire().await?, self.since()).await
    }

    /// Folds entries, whatever their places; no position moves. As [`fold`](Building::fold) otherwise.
    ///
    /// # Errors
    /// [`Error::Taken`] when this version is not being built any more.
    pub async fn fold_stragglers(&self, entries: Vec<Entry>) -> Result<(), Error> {
        let building = self.clone();
        let folding = tokio::spawn(async move {
            let mut transaction = building.views.pool.begin().await?;
            building.hold(&mut transaction).await?;
            fold(&mut transaction, &building.schema, &entries).await?;
            Ok(transaction.commit().await?)
        });
        folding.await.unwrap_or_else(|error| Err(Error::Task(error.to_string())))
    }

    /// Takes over from the version that serves the rows of those of `recordings` whose first event went from the archive by
    /// age: their transcripts are to stay, and nothing can fold them any more. Returns how many recordings these are. Runs
    /// in a task of its own, as [`fold`](Building::fold).
    ///
    /// # Errors
    /// [`Error::Taken`] when this version is not being built any more.
    pub async fn take_over(&self, recordings: &Recordings) -> Result<u64, Error> {
        let (building, recordings) = (self.clone(), recordings.clone());
        let taking = tokio::spawn(async move {
            let mut transaction = building.views.pool.begin().await?;
            building.hold(&mut transaction).await?;
            let serving = "SELECT schema FROM control.projections WHERE state = 'serving'";
            let serving: Option<String> =
                sqlx::query_scalar(serving).fetch_optional(&mut *transaction).await?;
            let Some(serving) = serving else { return Ok(0) };
            let sides = [&serving.parse()?, &building.schema];
            let expired = archive::expired(&mut transaction, &recordings).await?;
            if !expired.is_empty() {
                verify::take_over(&mut transaction, sides, &expired).await?;
            }
            transaction.commit().await?;
            Ok(expired.len() as u64)
        });
        taking.await.unwrap_or_else(|error| Err(Error::Task(error.to_string())))
    }

    /// Folds those of `recordings` anew of which the archive has events, from these alone. What the log told before may have been
    /// otherwise: where Redis went back in time, it has an event as it was done again, while a projector archived the first one.
    /// Returns them with the times that the archive gives. Runs in a task of its own, as [`fold`](Building::fold).
    ///
    /// # Errors
    /// [`Error::Taken`] when this version is not being built any more.
    pub async fn refold(&self, recordings: &Recordings) -> Result<Recordings, Error> {
        let (building, recordings) = (self.clone(), recordings.clone());
        let folding = tokio::spawn(async move {
            let mut transaction = building.views.pool.begin().await?;
            building.hold(&mut transaction).await?;
            let entries = archive::of_recordings(&mut transaction, &recordings).await?;
            let archived = entries.iter().map(|entry| (entry.recording(), entry.submitted_at())).collect();
            verify::remove(&mut transaction, &building.schema, &archived).await?;
            fold(&mut transaction, &building.schema, &entries).await?;
            transaction.commit().await?;
            Ok(archived)
        });
        folding.await.unwrap_or_else(|error| Err(Error::Task(error.to_string())))
    }

    /// Returns how many of `recordings` have lost their first event by age.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count_expired(&self, recordings: &Recordings) -> Result<u64, Error> {
        if recordings.is_empty() {
            return Ok(0);
        }
        let mut connection = self.views.pool.acquire().await?;
        Ok(archive::expired(&mut connection, recordings).await?.len() as u64)
    }

    /// Adds up what the tables hold, where the server does so beforehand.
    ///
    /// # Errors
    /// What the database says.
    pub async fn add_up(&self) -> Result<(), Error> {
        let mut connection = self.views.patient_connection().await?;
        let server = Server::ask(&mut connection).await?;
        if server.features.community {
            let sql = "CALL refresh_continuous_aggregate('{schema}.usage_hourly', NULL, NULL)";
            sqlx::raw_sql(self.schema.sql(sql)).execute(&mut connection).await?;
        }
        Ok(connection.close().await?)
    }

    /// Keeps this version being built until the transaction ends.
    async fn hold(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let sql = "SELECT state FROM control.projections WHERE schema = $1 AND state = 'building' FOR SHARE";
        let query = sqlx::query(sql).bind(self.schema.to_string());
        match query.fetch_optional(connection).await? {
            Some(_) => Ok(()),
            None => Err(Error::Taken(self.schema.clone())),
        }
    }

    /// What was noted before this time was there when this version was begun.
    fn since(&self) -> At {
        let since = At::from_us(self.created_at.us() - TRANSACTION_MAX.as_micros() as i64);
        since.unwrap_or(self.created_at)
    }

    async fn advance(
        &self,
        connection: &mut PgConnection,
        shard: Shard,
        from: u64,
        through: u64,
        events: usize,
    ) -> Result<(), Error> {
        if from == 0 {
            let sql = "INSERT INTO control.positions (schema, shard, seq, events) \
                       SELECT schema, $2, 0, 0 FROM control.projections WHERE schema = $1 AND state = 'building' \
                       ON CONFLICT DO NOTHING";
            let query = sqlx::query(sql).bind(self.schema.to_string()).bind(i32::from(shard.0));
            query.execute(&mut *connection).await?;
        }
        // Where it stands at `through` already, the answer to this very commit was lost.
        let sql = "UPDATE control.positions SET seq = $4, events = events + CASE seq WHEN $3 THEN $5 ELSE 0 END \
                   WHERE schema = $1 AND shard = $2 AND seq IN ($3, $4)";
        let moved = sqlx::query(sql)
            .bind(self.schema.to_string())
            .bind(i32::from(shard.0))
            .bind(signed(from))
            .bind(signed(through))
            .bind(events as i64)
            .execute(connection)
            .await?;
        match moved.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::Taken(self.schema.clone())),
        }
    }

    /// Makes the indexes that readers need, adds up usage, and has the planner know the tables. To be done once the
    /// tables are full; what is there is left alone.
    ///
    /// # Errors
    /// What the database says.
    pub async fn finish(&self) -> Result<(), Error> {
        let mut connection = self.views.patient_connection().await?;
        let sql = "SELECT set_config('maintenance_work_mem', $1, false) \
                   WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < pg_size_bytes($1)";
        sqlx::query(sql).bind(INDEX_MEMORY).execute(&mut connection).await?;
        projections::index(&mut connection, &self.schema).await?;
        if let Err(error) = projections::index_unspaced(&mut connection, &self.schema).await {
            tracing::debug!(%error, "no trigram index");
        }
        for table in verify::TABLES {
            let sql = format!("ANALYZE {}.{}", self.schema, table.name);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        }
        connection.close().await?;
        self.add_up().await
    }

    /// Compares a page of a table with the version that serves, after the page that ended with `after`. Returns what
    /// differs and where the page ended, unless it was the last one.
    ///
    /// # Errors
    /// What the database says.
    pub async fn compare_page(
        &self,
        table: Table,
        after: Option<Mark>,
    ) -> Result<(Vec<Difference>, Option<Mark>), Error> {
        let serving = self.views.serving().await?;
        let mut connection = self.views.pool.acquire().await?;
        verify::compare_page(&mut connection, [&serving, &self.schema], table, after).await
    }

    /// Compares all rows of recordings with the version that serves.
    ///
    /// # Errors
    /// What the database says.
    pub async fn compare_recordings(&self, recordings: &Recordings) -> Result<Vec<Difference>, Error> {
        let serving = self.views.serving().await?;
        let mut connection = self.views.pool.acquire().await?;
        verify::compare_recordings(&mut connection, [&serving, &self.schema], recordings).await
    }

    /// Has readers see this version and new facts go into it, in one transaction: waits until no batch is being
    /// applied, folds what came in meanwhile, compares the recordings of it and those of `unsure`, but not those of
    /// `ahead`, with the version that serves, if asked to, and switches. Everybody else waits for `patience` at most.
    ///
    /// # Errors
    /// [`Error::Event`] for an event that cannot be folded, [`Error::Taken`].
    pub async fn switch(
        &self,
        unsure: &Recordings,
        ahead: &BTreeSet<RecordingId>,
        compare: bool,
        patience: Duration,
    ) -> Result<Switched, Error> {
        let mut connection = self.views.patient_connection().await?;
        let server = Server::ask(&mut connection).await?;
        let compare = compare.then_some((unsure, ahead));
        let outcome = self.try_switch(&mut connection, &server, compare, patience).await;
        // Without a commit everything is undone with the connection.
        let _ = connection.close().await;
        match outcome {
            // Lock not available, deadlock: others are in the tables.
            Err(Error::Unavailable(error)) if is_locked(&error) => Ok(Switched::Busy),
            outcome => outcome,
        }
    }

    async fn try_switch(
        &self,
        connection: &mut PgConnection,
        server: &Server,
        compare: Option<(&Recordings, &BTreeSet<RecordingId>)>,
        patience: Duration,
    ) -> Result<Switched, Error> {
        let mut transaction = connection.begin().await?;
        let limit = format!("{}ms", patience.as_millis().max(1));
        sqlx::query("SELECT set_config('lock_timeout', $1, true)")
            .bind(limit)
            .execute(&mut *transaction)
            .await?;
        // Waits for every batch in hand, and holds up those that come, in the order in which they ask.
        sqlx::query("LOCK TABLE control.projections IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
        let sql = "SELECT state FROM control.projections WHERE schema = $1";
        let state: Option<String> =
            sqlx::query_scalar(sql).bind(self.schema.to_string()).fetch_optional(&mut *transaction).await?;
        match state.as_deref() {
            Some("building") => {}
            // The answer to an earlier attempt was lost on the way.
            Some("serving") => return Ok(Switched::Done),
            _ => return Err(Error::Taken(self.schema.clone())),
        }

        let Some(mut tail) = self.fold_tail(&mut transaction).await? else { return Ok(Switched::Busy) };
        let sql = "SELECT schema FROM control.projections WHERE state = 'serving'";
        let serving: Option<String> = sqlx::query_scalar(sql).fetch_optional(&mut *transaction).await?;
        let serving: Option<Schema> = serving.map(|serving| serving.parse()).transpose()?;
        if let (Some((unsure, ahead)), Some(serving)) = (compare, &serving) {
            tail.extend(unsure.iter().map(|(&id, &submitted_at)| (id, submitted_at)));
            tail.retain(|id, _| !ahead.contains(id));
            let differences =
                verify::compare_recordings(&mut transaction, [serving, &self.schema], &tail).await?;
            if !differences.is_empty() {
                return Ok(Switched::Differs(differences));
            }
        }

        if server.features.community
            && let Some(serving) = &serving
        {
            inherit_policies(&mut transaction, serving, &self.schema).await?;
        }
        for (state, column, schema) in
            [("old", "replaced_at", serving.as_ref()), ("serving", "serving_at", Some(&self.schema))]
        {
            let Some(schema) = schema else { continue };
            let sql =
                format!("UPDATE control.projections SET state = $2, {column} = now() WHERE schema = $1");
            sqlx::query(AssertSqlSafe(sql))
                .bind(schema.to_string())
                .bind(state)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query("DELETE FROM control.positions WHERE schema = $1")
            .bind(self.schema.to_string())
            .execute(&mut *transaction)
            .await?;
        projections::serve(&mut transaction, &self.schema).await?;
        transaction.commit().await?;
        Ok(Switched::Done)
    }

    /// Folds what is archived beyond the positions, and what came late to places before them. Returns the recordings of
    /// it; `None` when it is too much to have everybody wait for.
    async fn fold_tail(&self, connection: &mut PgConnection) -> Result<Option<Recordings>, Error> {
        let positions = positions(&mut *connection, &self.schema).await?;
        let sql = "SELECT shard FROM control.checkpoints ORDER BY shard";
        let shards: Vec<i32> = sqlx::query_scalar(sql).fetch_all(&mut *connection).await?;
        let mut entries = archive::stragglers(connection, self.since()).await?;
        for shard in shards {
            let shard = Shard(u16::try_from(shard).unwrap_or_default());
            let position = positions.get(&shard).copied().unwrap_or_default();
            entries.extend(archive::after(connection, shard, position.seq, TAIL_LEN_MAX).await?);
        }
        if entries.len() as i64 >= TAIL_LEN_MAX {
            return Ok(None);
        }
        fold(connection, &self.schema, &entries).await?;
        let known = entries.iter().filter(|entry| entry.lean().is_some());
        Ok(Some(known.map(|entry| (entry.recording(), entry.submitted_at())).collect()))
    }
}

async fn positions(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<BTreeMap<Shard, Position>, Error> {
    let sql = "SELECT shard, seq, events FROM control.positions WHERE schema = $1";
    let mut positions = BTreeMap::new();
    for row in sqlx::query(sql).bind(schema.to_string()).fetch_all(connection).await? {
        let shard = Shard(u16::try_from(row.try_get::<i32, _>("shard")?).unwrap_or_default());
        let position =
            Position { seq: unsigned(row.try_get("seq")?), events: unsigned(row.try_get("events")?) };
        positions.insert(shard, position);
    }
    Ok(positions)
}

/// Gives a version the policies of another.
async fn inherit_policies(connection: &mut PgConnection, from: &Schema, to: &Schema) -> Result<(), Error> {
    for (policy, setting, call) in [
        ("policy_compression", "compress_after", "add_compression_policy"),
        ("policy_retention", "drop_after", "add_retention_policy"),
    ] {
        let sql = format!(
            "SELECT {call}('{to}.segments', (config ->> $3)::interval, if_not_exists => true) \
             FROM timescaledb_information.jobs \
             WHERE hypertable_schema = $1 AND hypertable_name = 'segments' AND proc_name = $2"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(from.to_string()).bind(policy).bind(setting);
        query.fetch_all(&mut *connection).await?;
    }
    Ok(())
}

/// Lock not available, deadlock.
fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01"))
}
