//! The versions of the read side: making one from the templates, which one serves, which there are.

use jiff::Timestamp;
use sqlx::{Connection, PgConnection, Row};

use crate::database::Views;
use crate::error::Error;
use crate::schema::Schema;
use crate::time::At;

/// The shape of the tables that this program writes. It changes when a template does, and then a new version of the
/// read side must be built.
pub const LAYOUT: i32 = 2;

const TABLES: &str = include_str!("../migrations/read/tables.sql");
const INDEXES: &str = include_str!("../migrations/read/indexes.sql");
const TIMESCALE: &str = include_str!("../migrations/read/timescale.sql");
const COMMUNITY: &str = include_str!("../migrations/read/community.sql");
const SERVE: &str = include_str!("../migrations/read/serve.sql");

/// What becomes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It is being folded; nobody reads it.
    Building,
    /// Readers see it and new facts go into it.
    Serving,
    /// Another one replaced it; it stays as it was until it is dropped.
    Old,
}

impl Stand {
    /// Returns the word that stands for it in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Stand::Building => "building",
            Stand::Serving => "serving",
            Stand::Old => "old",
        }
    }
}

/// One version of the read side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Its schema.
    pub schema: Schema,
    /// The shape of its tables: [`LAYOUT`] of the release that made it.
    pub layout: i32,
    /// What becomes of it.
    pub stand: Stand,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it serves, or when it began to.
    pub serving_at: Option<Timestamp>,
    /// When another one replaced it.
    pub replaced_at: Option<Timestamp>,
}

impl Views {
    /// Returns every version of the read side, the first one first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn projections(&self) -> Result<Vec<Projection>, Error> {
        let sql =
            "SELECT schema, layout, state, created_at, serving_at, replaced_at FROM control.projections";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        let mut projections = Vec::new();
        for row in rows {
            let time = |column| Ok::<_, Error>(row.try_get::<Option<At>, _>(column)?.map(|at| at.0));
            projections.push(Projection {
                schema: row.try_get::<&str, _>("schema")?.parse()?,
                layout: row.try_get("layout")?,
                stand: match row.try_get("state")? {
                    "building" => Stand::Building,
                    "serving" => Stand::Serving,
                    _ => Stand::Old,
                },
                created_at: row.try_get::<At, _>("created_at")?.0,
                serving_at: time("serving_at")?,
                replaced_at: time("replaced_at")?,
            });
        }
        projections.sort_by(|a, b| a.schema.cmp(&b.schema));
        Ok(projections)
    }

    /// Says whether the tables of a version are there.
    ///
    /// # Errors
    /// What the database says.
    pub async fn is_there(&self, schema: &Schema) -> Result<bool, Error> {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        let table = format!("{schema}.segments");
        Ok(sqlx::query_scalar(sql).bind(table).fetch_one(&self.pool).await?)
    }

    /// Returns the version that serves.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] when there is none.
    pub async fn serving(&self) -> Result<Schema, Error> {
        let sql = "SELECT schema FROM control.projections WHERE state = 'serving'";
        let name: Option<String> = sqlx::query_scalar(sql).fetch_optional(&self.pool).await?;
        Ok(name.ok_or(Error::NotInstalled)?.parse()?)
    }
}

/// Returns the version that serves and keeps it serving until the transaction ends: a switch waits for all who hold it,
/// and those who come later wait for the switch.
///
/// # Errors
/// [`Error::Layout`] when its tables are not those of this program.
pub(crate) async fn hold_serving(connection: &mut PgConnection) -> Result<Schema, Error> {
    // The lock on the table that FOR SHARE brings is what the switch waits for. It comes before the statement looks, so
    // after a switch the new version is seen.
    let sql = "SELECT schema, layout FROM control.projections WHERE state = 'serving' FOR SHARE";
    let row = sqlx::query(sql).fetch_optional(connection).await?.ok_or(Error::NotInstalled)?;
    let (schema, layout): (Schema, i32) =
        (row.try_get::<&str, _>("schema")?.parse()?, row.try_get("layout")?);
    if layout != LAYOUT {
        return Err(Error::Layout { schema, layout, program: LAYOUT });
    }
    Ok(schema)
}

/// What the server can do with the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// Tables in time slices.
    pub timescale: bool,
    /// Compression, and usage added up as it comes.
    pub community: bool,
}

/// Makes the first version where there is none, and gives those that are there what the server has learnt since.
pub(crate) async fn install(connection: &mut PgConnection, features: Features) -> Result<(), Error> {
    let mut transaction = connection.begin().await?;
    let sql = "SELECT schema, state, timescale, community FROM control.projections ORDER BY schema";
    let rows = sqlx::query(sql).fetch_all(&mut *transaction).await?;
    if rows.is_empty() {
        create(&mut transaction, &Schema::FIRST, Stand::Serving, features).await?;
        index(&mut transaction, &Schema::FIRST).await?;
        serve(&mut transaction, &Schema::FIRST).await?;
    }
    for row in rows {
        let schema: Schema = row.try_get::<&str, _>("schema")?.parse()?;
        let there = Features { timescale: row.try_get("timescale")?, community: row.try_get("community")? };
        if features.timescale && !there.timescale || features.community && !there.community {
            equip(&mut transaction, &schema, there, features).await?;
            if row.try_get::<&str, _>("state")? == Stand::Serving.as_str() {
                serve(&mut transaction, &schema).await?;
            }
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Makes the tables of a version.
pub(crate) async fn create(
    connection: &mut PgConnection,
    schema: &Schema,
    stand: Stand,
    features: Features,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO control.projections (schema, layout, state, serving_at) \
         VALUES ($1, $2, $3, CASE $3 WHEN 'serving' THEN now() END)",
    )
    .bind(schema.to_string())
    .bind(LAYOUT)
    .bind(stand.as_str())
    .execute(&mut *connection)
    .await?;
    sqlx::raw_sql(schema.sql(TABLES)).execute(&mut *connection).await?;
    equip(connection, schema, Features { timescale: false, community: false }, features).await
}

/// Adds what the server can do and the tables do not have yet.
async fn equip(
    connection: &mut PgConnection,
    schema: &Schema,
    there: Features,
    wanted: Features,
) -> Result<(), Error> {
    if wanted.timescale && !there.timescale {
        sqlx::raw_sql(schema.sql(TIMESCALE)).execute(&mut *connection).await?;
    }
    if wanted.community && !there.community {
        let serving = "DO $$ BEGIN IF EXISTS (SELECT FROM control.projections WHERE schema = '{schema}' AND \
                       state = 'serving') THEN DROP VIEW IF EXISTS read.usage_hourly; END IF; END $$";
        sqlx::raw_sql(schema.sql(serving)).execute(&mut *connection).await?;
        sqlx::raw_sql(schema.sql(COMMUNITY)).execute(&mut *connection).await?;
    }
    let sql = "UPDATE control.projections SET timescale = $2 OR timescale, community = $3 OR community WHERE schema = $1";
    sqlx::query(sql)
        .bind(schema.to_string())
        .bind(wanted.timescale)
        .bind(wanted.community)
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes the indexes that readers need.
pub(crate) async fn index(connection: &mut PgConnection, schema: &Schema) -> Result<(), Error> {
    sqlx::raw_sql(schema.sql(INDEXES)).execute(connection).await?;
    Ok(())
}

/// Trigrams find text without words. The list of languages is that of `transcript::language::UNSPACED`.
///
/// # Errors
/// Where the server has no pg_trgm, among others.
pub(crate) async fn index_unspaced(connection: &mut PgConnection, schema: &Schema) -> Result<(), Error> {
    sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_trgm").execute(&mut *connection).await?;
    let sql = "CREATE INDEX IF NOT EXISTS segments_by_trigrams ON {schema}.segments USING gin (text gin_trgm_ops) \
               WHERE language IN ('bo', 'ja', 'km', 'lo', 'my', 'th', 'yue', 'zh')";
    sqlx::query(schema.sql(sql)).execute(&mut *connection).await?;
    Ok(())
}

/// Shows a version to readers.
pub(crate) async fn serve(connection: &mut PgConnection, schema: &Schema) -> Result<(), Error> {
    sqlx::raw_sql(schema.sql(SERVE)).execute(connection).await?;
    Ok(())
}
