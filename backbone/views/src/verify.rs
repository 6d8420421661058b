//! Two versions of the read side side by side, row by row.

use std::collections::BTreeMap;
use std::fmt;

use events::RecordingId;
use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use crate::error::Error;
use crate::schema::Schema;
use crate::time::At;

/// A table that every version has, with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The column that names the recording.
    recording: &'static str,
    /// What tells the rows of one recording apart.
    rest: &'static [&'static str],
}

/// All of them. What is computed from them when it is read, such as usage, follows.
pub const TABLES: [Table; 3] = [
    Table { name: "recordings", recording: "id", rest: &[] },
    Table { name: "transcripts", recording: "recording", rest: &["generation"] },
    Table { name: "segments", recording: "recording", rest: &["generation", "channel", "index"] },
];

/// A row that is not the same in both versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: &'static str,
    /// The recording it is about.
    pub recording: RecordingId,
    /// When that was submitted.
    pub submitted_at: Timestamp,
    /// Which of the recording's rows, such as `generation 0, channel 0, index 3`; empty where there is one.
    pub row: String,
    /// How they differ.
    pub how: Unlike,
}

/// How two versions differ in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlike {
    /// Only the old version has it.
    OnlyOld,
    /// Only the new version has it.
    OnlyNew,
    /// These columns are not the same.
    Columns(Vec<String>),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of recording {}", self.table, self.recording)?;
        if !self.row.is_empty() {
            write!(f, " ({})", self.row)?;
        }
        match &self.how {
            Unlike::OnlyOld => write!(f, ": only the old version has this row"),
            Unlike::OnlyNew => write!(f, ": only the new version has this row"),
            Unlike::Columns(columns) => write!(f, ": {} differ", columns.join(", ")),
        }
    }
}

/// Where a comparison of one table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    submitted_at: At,
    recording: Uuid,
}

/// Recordings by id, with the times at which they were submitted.
pub type Recordings = BTreeMap<RecordingId, Timestamp>;

/// Rows compared in one statement, about.
pub const PAGE_LEN: u32 = 2_000;

/// Compares the rows of a page after `after`, all of one moment. Returns what differs and, unless it was the last page,
/// where it ended.
pub(crate) async fn compare_page(
    connection: &mut PgConnection,
    [old, new]: [&Schema; 2],
    table: Table,
    after: Option<Mark>,
) -> Result<(Vec<Difference>, Option<Mark>), Error> {
    let bound = "(SELECT submitted_at, {recording} AS recording FROM {side}.{table} \
                 WHERE $1::timestamptz IS NULL OR (submitted_at >= $1 AND (submitted_at, {recording}) > ($1, $2)) \
                 ORDER BY submitted_at, {recording} OFFSET $3 LIMIT 1)";
    let bounds = [old, new].map(|side| {
        bound
            .replace("{side}", &side.to_string())
            .replace("{table}", table.name)
            .replace("{recording}", table.recording)
    });
    let sql = format!("{} UNION ALL {} ORDER BY submitted_at, recording LIMIT 1", bounds[0], bounds[1]);
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(after.map(|after| after.submitted_at))
        .bind(after.map(|after| after.recording))
        .bind(i64::from(PAGE_LEN))
        .fetch_optional(&mut *connection)
        .await?;
    let end = match row {
        Some(row) => {
            Some(Mark { submitted_at: row.try_get("submitted_at")?, recording: row.try_get("recording")? })
        }
        None => None,
    };
    let rows = "SELECT * FROM {side}.{table} \
                WHERE ($1::timestamptz IS NULL OR (submitted_at >= $1 AND (submitted_at, {recording}) > ($1, $2))) \
                AND ($3::timestamptz IS NULL OR (submitted_at <= $3 AND (submitted_at, {recording}) <= ($3, $4)))";
    let sql = comparison(connection, [old, new], table, rows).await?;
    let query = sqlx::query(AssertSqlSafe(sql))
        .bind(after.map(|after| after.submitted_at))
        .bind(after.map(|after| after.recording))
        .bind(end.map(|end| end.submitted_at))
        .bind(end.map(|end| end.recording));
    Ok((differences(query.fetch_all(connection).await?, table)?, end))
}

/// Compares all rows of the given recordings, all of one moment per table.
pub(crate) async fn compare_recordings(
    connection: &mut PgConnection,
    sides: [&Schema; 2],
    recordings: &Recordings,
) -> Result<Vec<Difference>, Error> {
    let ids: Vec<Uuid> = recordings.keys().map(|id| id.as_uuid()).collect();
    let times: Vec<At> = recordings.values().map(|&at| At::new(at)).collect();
    let rows = "SELECT t.* FROM unnest($1::timestamptz[], $2::uuid[]) AS wanted (submitted_at, recording) \
                JOIN {side}.{table} t ON t.submitted_at = wanted.submitted_at AND t.{recording} = wanted.recording";
    let mut found = Vec::new();
    for table in TABLES {
        let sql = comparison(connection, sides, table, rows).await?;
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&times).bind(&ids);
        found.extend(differences(query.fetch_all(&mut *connection).await?, table)?);
    }
    Ok(found)
}

/// Puts all rows of the given recordings in the old version in the place of those in the new one. Columns that only the new
/// one has stay empty.
pub(crate) async fn take_over(
    connection: &mut PgConnection,
    [old, new]: [&Schema; 2],
    recordings: &Recordings,
) -> Result<(), Error> {
    let ids: Vec<Uuid> = recordings.keys().map(|id| id.as_uuid()).collect();
    let times: Vec<At> = recordings.values().map(|&at| At::new(at)).collect();
    for table in TABLES {
        let Table { name, recording, .. } = table;
        let columns = common_columns(connection, [old, new], table, false).await?.join(", ");
        let these = format!(
            "unnest($1::timestamptz[], $2::uuid[]) AS these (these_at, these_ids) \
             WHERE t.submitted_at = these_at AND t.{recording} = these_ids"
        );
        for sql in [
            format!("DELETE FROM {new}.{name} t USING {these}"),
            format!("INSERT INTO {new}.{name} ({columns}) SELECT {columns} FROM {old}.{name} t, {these}"),
        ] {
            let query = sqlx::query(AssertSqlSafe(sql)).bind(&times).bind(&ids);
            query.execute(&mut *connection).await?;
        }
    }
    Ok(())
}

/// Removes all rows of the given recordings, whatever their times.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    schema: &Schema,
    recordings: &Recordings,
) -> Result<(), Error> {
    let ids: Vec<Uuid> = recordings.keys().map(|id| id.as_uuid()).collect();
    for Table { name, recording, .. } in TABLES {
        let sql = format!("DELETE FROM {schema}.{name} WHERE {recording} = ANY($1)");
        sqlx::query(AssertSqlSafe(sql)).bind(&ids).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The columns that both versions of a table have, with or without those that the server computes.
async fn common_columns(
    connection: &mut PgConnection,
    [old, new]: [&Schema; 2],
    table: Table,
    computed: bool,
) -> Result<Vec<String>, Error> {
    let sql = "SELECT quote_ident(column_name::text) FROM information_schema.columns WHERE table_name = $3 \
               AND table_schema IN ($1, $2) AND ($4 OR is_generated = 'NEVER') \
               GROUP BY column_name HAVING count(*) = 2 ORDER BY min(ordinal_position)";
    let query = sqlx::query_scalar(sql).bind(old.to_string()).bind(new.to_string());
    Ok(query.bind(table.name).bind(computed).fetch_all(connection).await?)
}

/// The statement that compares `rows` of both versions in the columns that both have. Without a common column, as where
/// a version is gone, that is an error of the server.
async fn comparison(
    connection: &mut PgConnection,
    [old, new]: [&Schema; 2],
    table: Table,
    rows: &str,
) -> Result<String, Error> {
    let columns = common_columns(connection, [old, new], table, true).await?;
    let key: Vec<&str> =
        ["submitted_at", table.recording].into_iter().chain(table.rest.iter().copied()).collect();
    let list = |side: &str, columns: &[String]| {
        columns.iter().map(|column| format!("{side}.{column}")).collect::<Vec<_>>().join(", ")
    };
    let named: Vec<String> = columns
        .iter()
        .map(|column| {
            let name = column.replace('\'', "''");
            format!("CASE WHEN a.{column} IS DISTINCT FROM b.{column} THEN '{name}' END")
        })
        .collect();
    let on: Vec<String> = key.iter().map(|column| format!("a.{column} = b.{column}")).collect();
    let rest: Vec<String> =
        table.rest.iter().map(|column| format!("'{column} ' || coalesce(a.{column}, b.{column})")).collect();
    let rest =
        if rest.is_empty() { "''".to_owned() } else { format!("concat_ws(', ', {})", rest.join(", ")) };
    let side = |schema: &Schema| {
        rows.replace("{side}", &schema.to_string())
            .replace("{table}", table.name)
            .replace("{recording}", table.recording)
    };
    Ok(format!(
        "SELECT coalesce(a.submitted_at, b.submitted_at) AS submitted_at, \
         coalesce(a.{recording}, b.{recording}) AS recording, {rest} AS row, \
         a.submitted_at IS NOT NULL AS in_old, b.submitted_at IS NOT NULL AS in_new, \
         array_remove(ARRAY[{named}]::text[], NULL) AS columns \
         FROM ({old}) a FULL JOIN ({new}) b ON {on} WHERE ({left}) IS DISTINCT FROM ({right}) ORDER BY 1, 2, 3",
        recording = table.recording,
        named = named.join(", "),
        old = side(old),
        new = side(new),
        on = on.join(" AND "),
        left = list("a", &columns),
        right = list("b", &columns),
    ))
}

fn differences(rows: Vec<PgRow>, table: Table) -> Result<Vec<Difference>, Error> {
    let mut found = Vec::new();
    for row in rows {
        let how = match (row.try_get("in_old")?, row.try_get("in_new")?) {
            (true, false) => Unlike::OnlyOld,
            (false, _) => Unlike::OnlyNew,
            (true, true) => Unlike::Columns(row.try_get("columns")?),
        };
        found.push(Difference {
            table: table.name,
            recording: row.try_get::<Uuid, _>("recording")?.into(),
            submitted_at: row.try_get::<At, _>("submitted_at")?.0,
            row: row.try_get("row")?,
            how,
        });
    }
    Ok(found)
}
