//! How long things are kept, and what is older than that.
//!
//! A rule says for one tenant, or for all without a rule of their own, how long audio, transcripts or archived events
//! are kept after a recording was submitted. Without any rule everything is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use events::{Deletion, RecordingId, Tenant};
use jiff::Timestamp;
use sqlx::{PgConnection, Row};
use transcript::Status;
use uuid::Uuid;

use crate::compressed;
use crate::database::Views;
use crate::error::Error;
use crate::time::At;

/// What has an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kept {
    /// The audio of recordings that have ended.
    Audio,
    /// Recordings with all there is of them.
    Transcripts,
    /// The archived events, from which the read side is built anew.
    Events,
}

impl Kept {
    /// All of them.
    pub const ALL: [Kept; 3] = [Kept::Audio, Kept::Transcripts, Kept::Events];

    /// Returns the word that stands for it in SQL and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Kept::Audio => "audio",
            Kept::Transcripts => "transcripts",
            Kept::Events => "events",
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Kept, String> {
        let found = Kept::ALL.into_iter().find(|kept| kept.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not kept by age: audio, transcripts or events"))
    }
}

/// How long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// For ever.
    Forever,
    /// So long after the recording was submitted; whole seconds.
    For(Duration),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For whom; `None` for all without a rule of their own.
    pub tenant: Option<Tenant>,
    /// Of what.
    pub what: Kept,
    /// How long.
    pub keep: Keep,
}

/// Stands for everybody without a rule of their own; no tenant can be called so.
const EVERYBODY: &str = "*";

/// Whose things end before which time: one pass over the tables.
#[derive(Clone, Debug, PartialEq)]
struct Cut {
    /// Only these tenants; `None` for all but `except`.
    tenants: Option<Vec<String>>,
    except: Vec<String>,
    before: Timestamp,
}

impl Views {
    /// Returns every rule, those of everybody first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn retention(&self) -> Result<Vec<Rule>, Error> {
        let sql = "SELECT tenant, what, keep_seconds FROM control.retention \
                   ORDER BY tenant <> '*', tenant, array_position('{audio,transcripts,events}', what)";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        let read = rows.iter().map(|row| {
            let (tenant, what): (String, String) = (row.try_get("tenant")?, row.try_get("what")?);
            let corrupt = |error: String| Error::Corrupt(error);
            let tenant = match tenant.as_str() {
                EVERYBODY => None,
                name => Some(name.parse().map_err(|error| corrupt(format!("{error}")))?),
            };
            let keep = match row.try_get::<Option<i64>, _>("keep_seconds")? {
                Some(seconds) => Keep::For(Duration::from_secs(seconds.unsigned_abs())),
                None => Keep::Forever,
            };
            Ok(Rule { tenant, what: what.parse().map_err(corrupt)?, keep })
        });
        read.collect()
    }

    /// Sets a rule, in place of the one for the same tenant and thing.
    ///
    /// # Errors
    /// What the database says.
    pub async fn set_retention(&self, rule: &Rule) -> Result<(), Error> {
        let seconds = match rule.keep {
            Keep::Forever => None,
            Keep::For(time) => Some(i64::try_from(time.as_secs().max(1)).unwrap_or(i64::MAX)),
        };
        sqlx::query(
            "INSERT INTO control.retention (tenant, what, keep_seconds) VALUES ($1, $2, $3) \
             ON CONFLICT (tenant, what) DO UPDATE SET keep_seconds = excluded.keep_seconds",
        )
        .bind(rule.tenant.as_ref().map_or(EVERYBODY, Tenant::as_str))
        .bind(rule.what.as_str())
        .bind(seconds)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Removes a rule; `false` where there is none.
    ///
    /// # Errors
    /// What the database says.
    pub async fn unset_retention(&self, tenant: Option<&Tenant>, what: Kept) -> Result<bool, Error> {
        let sql = "DELETE FROM control.retention WHERE tenant = $1 AND what = $2";
        let tenant = tenant.map_or(EVERYBODY, Tenant::as_str);
        let done = sqlx::query(sql).bind(tenant).bind(what.as_str()).execute(&self.pool).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Returns up to `limit` recordings that are older at `now` than transcripts are kept.
    ///
    /// # Errors
    /// What the database says.
    pub async fn expired_recordings(&self, now: Timestamp, limit: u32) -> Result<Vec<Deletion>, Error> {
        let there: Vec<&str> =
            Status::ALL.iter().filter(|&&status| status != Status::Deleted).map(|s| s.as_str()).collect();
        let mut expired = Vec::new();
        for cut in self.cuts(Kept::Transcripts, now).await? {
            let rows = sqlx::query(
                "SELECT id, tenant, submitted_at, drop_id FROM read.recordings r \
                 WHERE status = ANY($1) AND submitted_at < $2 AND ($3::text[] IS NULL OR tenant = ANY($3)) \
                 AND tenant <> ALL($4) \
                 AND NOT EXISTS (SELECT FROM control.erasures e WHERE e.recording = r.id) \
                 ORDER BY submitted_at, id LIMIT $5",
            )
            .bind(&there)
            .bind(At::new(cut.before))
            .bind(&cut.tenants)
            .bind(&cut.except)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            for row in rows {
                let (id, tenant): (Uuid, String) = (row.try_get("id")?, row.try_get("tenant")?);
                expired.push(Deletion {
                    recording: id.into(),
                    tenant: tenant.parse().map_err(|error| Error::Corrupt(format!("{error}")))?,
                    submitted_at: row.try_get::<At, _>("submitted_at")?.0,
                    drop_id: row.try_get("drop_id")?,
                    by: "retention".to_owned(),
                });
            }
        }
        expired.truncate(limit as usize);
        Ok(expired)
    }

    /// Returns up to `limit` recordings that have ended and are older at `now` than audio is kept, and whose audio is
    /// still there as far as is known.
    ///
    /// # Errors
    /// What the database says.
    pub async fn expired_audio(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(RecordingId, Tenant)>, Error> {
        let ended: Vec<&str> =
            [Status::Complete, Status::Failed, Status::Cancelled].map(Status::as_str).to_vec();
        let mut expired = Vec::new();
        for cut in self.cuts(Kept::Audio, now).await? {
            let rows = sqlx::query(
                "SELECT id, tenant FROM read.recordings r \
                 WHERE status = ANY($1) AND submitted_at < $2 AND ($3::text[] IS NULL OR tenant = ANY($3)) \
                 AND tenant <> ALL($4) \
                 AND NOT EXISTS (SELECT FROM control.expired_audio e WHERE e.recording = r.id) \
                 ORDER BY submitted_at, id LIMIT $5",
            )
            .bind(&ended)
            .bind(At::new(cut.before))
            .bind(&cut.tenants)
            .bind(&cut.except)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            for row in rows {
                let (id, tenant): (Uuid, String) = (row.try_get("id")?, row.try_get("tenant")?);
                let tenant = tenant.parse().map_err(|error| Error::Corrupt(format!("{error}")))?;
                expired.push((id.into(), tenant));
            }
        }
        expired.truncate(limit as usize);
        Ok(expired)
    }

    /// Notes that the audio of recordings is gone.
    ///
    /// # Errors
    /// What the database says.
    pub async fn note_expired_audio(&self, recordings: &[RecordingId]) -> Result<(), Error> {
        let sql = "INSERT INTO control.expired_audio (recording) SELECT * FROM unnest($1::uuid[]) \
                   ON CONFLICT DO NOTHING";
        let ids: Vec<Uuid> = recordings.iter().map(|recording| recording.as_uuid()).collect();
        sqlx::query(sql).bind(ids).execute(&self.pool).await?;
        Ok(())
    }

    /// Returns when the audio of those recordings expired whose audio did.
    ///
    /// # Errors
    /// What the database says.
    pub async fn audio_expired_at(
        &self,
        recordings: &[RecordingId],
    ) -> Result<BTreeMap<RecordingId, Timestamp>, Error> {
        let sql = "SELECT recording, expired_at FROM control.expired_audio WHERE recording = ANY($1)";
        let ids: Vec<Uuid> = recordings.iter().map(|recording| recording.as_uuid()).collect();
        let rows = sqlx::query(sql).bind(ids).fetch_all(&self.pool).await?;
        let read = rows.iter().map(|row| {
            let id: Uuid = row.try_get("recording")?;
            Ok((id.into(), row.try_get::<At, _>("expired_at")?.0))
        });
        read.collect()
    }

    /// Removes about `limit` archived events that are older at `now` than events are kept, by the time when their
    /// recording was submitted; returns how many went. What the read side shows stays, and a rebuild takes it over: whose
    /// events went, and from before which time, is noted.
    ///
    /// # Errors
    /// What the database says.
    pub async fn expire_events(&self, now: Timestamp, limit: u32) -> Result<u64, Error> {
        let cuts = self.cuts(Kept::Events, now).await?;
        let pool = self.pool.clone();
        // A task of its own: a transaction must not be dropped half way.
        let task = tokio::spawn(async move {
            let mut removed = 0;
            for cut in &cuts {
                let mut transaction = pool.begin().await?;
                removed += expire(&mut transaction, cut, limit).await?;
                transaction.commit().await?;
            }
            Ok(removed)
        });
        task.await.map_err(|error| Error::Task(error.to_string()))?
    }

    /// Forgets which events were seen up to `through` in a shard's log: those the log does not hold any more, and so
    /// never gives again. Should one come all the same, as after a failover to a replica that had not trimmed yet, it is
    /// folded once more and changes nothing: rows are settled by round and event id, and the archive has it already.
    ///
    /// # Errors
    /// What the database says.
    pub async fn forget_inbox(&self, through: &[(events::Shard, u64)]) -> Result<u64, Error> {
        let mut forgotten = 0;
        loop {
            let done = sqlx::query(
                "DELETE FROM control.inbox WHERE ctid = ANY(ARRAY( \
                 SELECT i.ctid FROM control.inbox i \
                 JOIN unnest($1::int[], $2::bigint[]) AS m (shard, seq) ON m.shard = i.shard AND i.seq <= m.seq \
                 LIMIT $3))",
            )
            .bind(through.iter().map(|(shard, _)| i32::from(shard.0)).collect::<Vec<_>>())
            .bind(through.iter().map(|(_, seq)| i64::try_from(*seq).unwrap_or(i64::MAX)).collect::<Vec<_>>())
            .bind(INBOX_PAGE)
            .execute(&self.pool)
            .await?;
            forgotten += done.rows_affected();
            if done.rows_affected() < INBOX_PAGE.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }

    async fn cuts(&self, what: Kept, now: Timestamp) -> Result<Vec<Cut>, Error> {
        Ok(cuts(&self.retention().await?, what, now))
    }
}

/// Rows of the inbox forgotten in one statement: a second's work, so that it holds nobody up.
const INBOX_PAGE: i64 = 50_000;

/// Removes the oldest events before a cut.
async fn expire(connection: &mut PgConnection, cut: &Cut, limit: u32) -> Result<u64, Error> {
    compressed::lift_limit(&mut *connection).await?;
    // First their times: between two times that are known, the other compressed slices are not touched.
    let sql = "SELECT min(occurred_at) AS first, max(occurred_at) AS last, array_agg(DISTINCT tenant) AS tenants FROM ( \
               SELECT occurred_at, tenant FROM log.events \
               WHERE occurred_at < $1 AND submitted_at < $1 AND ($2::text[] IS NULL OR tenant = ANY($2)) \
               AND tenant <> ALL($3) ORDER BY occurred_at FETCH FIRST $4 ROWS WITH TIES) AS page";
    let row = sqlx::query(sql)
        .bind(At::new(cut.before))
        .bind(&cut.tenants)
        .bind(&cut.except)
        .bind(i64::from(limit))
        .fetch_one(&mut *connection)
        .await?;
    let times = row.try_get::<Option<At>, _>("first")?.zip(row.try_get::<Option<At>, _>("last")?);
    let Some((first, last)) = times else { return Ok(0) };
    let sql = "DELETE FROM log.events WHERE occurred_at BETWEEN $4 AND $5 AND submitted_at < $1 \
               AND ($2::text[] IS NULL OR tenant = ANY($2)) AND tenant <> ALL($3)";
    let done = sqlx::query(sql)
        .persistent(false)
        .bind(At::new(cut.before))
        .bind(&cut.tenants)
        .bind(&cut.except)
        .bind(first)
        .bind(last)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO control.expired_events (tenant, before) SELECT tenant, $2 FROM unnest($1::text[]) AS tenant \
         ON CONFLICT (tenant) DO UPDATE SET before = greatest(expired_events.before, excluded.before)",
    )
    .bind(row.try_get::<Vec<String>, _>("tenants")?)
    .bind(At::new(cut.before))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

fn cuts(rules: &[Rule], what: Kept, now: Timestamp) -> Vec<Cut> {
    let before = |time: Duration| {
        let time = jiff::SignedDuration::try_from(time).unwrap_or(jiff::SignedDuration::MAX);
        // Longer than there is time is for ever.
        now.checked_sub(time).ok()
    };
    let mut cuts: Vec<Cut> = Vec::new();
    let rules = || rules.iter().filter(|rule| rule.what == what);
    let own: Vec<String> =
        rules().filter_map(|rule| rule.tenant.as_ref()).map(|tenant| tenant.as_str().to_owned()).collect();
    for rule in rules() {
        let Keep::For(time) = rule.keep else { continue };
        let Some(before) = before(time) else { continue };
        cuts.push(match &rule.tenant {
            Some(tenant) => {
                Cut { tenants: Some(vec![tenant.as_str().to_owned()]), except: Vec::new(), before }
            }
            None => Cut { tenants: None, except: own.clone(), before },
        });
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_own_rule_stands_before_that_of_everybody() {
        let rule = |tenant: Option<&str>, what, keep| Rule {
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
            what,
            keep,
        };
        let days = |days: u64| Keep::For(Duration::from_secs(days * 86_400));
        let rules = [
            rule(None, Kept::Audio, days(30)),
            rule(Some("acme"), Kept::Audio, Keep::Forever),
            rule(Some("shop"), Kept::Audio, days(1)),
            rule(Some("shop"), Kept::Transcripts, days(u64::MAX / 86_400)),
        ];
        let now: Timestamp = "2026-03-31T00:00:00Z".parse().unwrap();
        let found = cuts(&rules, Kept::Audio, now);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(found.len(), 2, "for ever cuts nothing off");
        assert_eq!(found[0].before, at("2026-03-01T00:00:00Z"));
        assert_eq!(
            (&found[0].tenants, &found[0].except),
            (&None, &vec!["acme".to_owned(), "shop".to_owned()])
        );
        assert_eq!(found[1].before, at("2026-03-30T00:00:00Z"));
        assert_eq!(found[1].tenants, Some(vec!["shop".to_owned()]));
        assert_eq!(cuts(&rules, Kept::Transcripts, now), [], "an age beyond all time is for ever");
        assert_eq!(cuts(&rules, Kept::Events, now), []);
    }
}
