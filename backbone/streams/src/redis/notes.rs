//! Small values that programs agree on: cursors, outcomes of drops, speech, languages, tails, models, leases.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use events::{RecordingId, SegmentId, Shard};
use redis::Value;

use super::RedisLog;
use super::reply::unexpected;
use crate::failpoint;
use crate::keys;
use crate::log::{Before, DropOutcome, Error, Heard, ModelNote};

/// How long tails are kept, at most: there are words in them, and the segments of a recording follow each other sooner.
const TAIL_KEPT_MAX: Duration = Duration::from_secs(24 * 3600);

impl RedisLog {
    pub(super) async fn cursor(&self, key: &str) -> Result<String, Error> {
        let cursor: Option<String> = self.run("read the decode cursor", redis::cmd("GET").arg(key)).await?;
        Ok(cursor.unwrap_or_default())
    }

    pub(super) async fn set_drop_outcome(&self, drop_id: &str, outcome: &DropOutcome) -> Result<(), Error> {
        let json = serde_json::to_string(outcome).expect("an outcome is plain data");
        let mut command = redis::cmd("SET");
        command.arg(keys::drop_outcome(drop_id)).arg(json).arg("EX").arg(7 * 24 * 3600);
        self.run::<()>("keep what became of a drop", &command).await?;
        failpoint::reach("outcome.after");
        Ok(())
    }

    pub(super) async fn drop_outcome(&self, drop_id: &str) -> Result<Option<DropOutcome>, Error> {
        const ACTION: &str = "read what became of a drop";
        let json: Option<String> =
            self.run(ACTION, redis::cmd("GET").arg(keys::drop_outcome(drop_id))).await?;
        json.map(|json| serde_json::from_str(&json).map_err(|_| unexpected(ACTION, &json))).transpose()
    }

    pub(super) async fn speech(
        &self,
        shard: Shard,
        segment: &SegmentId,
        round: u32,
    ) -> Result<Option<Bytes>, Error> {
        let speech: Option<Vec<u8>> =
            self.run("fetch speech", redis::cmd("GET").arg(keys::speech(shard, segment, round))).await?;
        Ok(speech.map(Bytes::from))
    }

    pub(super) async fn settle_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        language: &str,
    ) -> Result<String, Error> {
        let mut invocation = self.scripts.settle.prepare_invoke();
        invocation.key(keys::language(shard, recording, generation));
        invocation.arg(language).arg(self.config.keep.as_secs());
        self.script("settle the language", &invocation).await
    }

    pub(super) async fn hear_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        segment: &str,
        heard: &str,
    ) -> Result<Heard, Error> {
        let mut invocation = self.scripts.hear.prepare_invoke();
        invocation.key(keys::heard(shard, recording, generation));
        invocation.arg(segment).arg(heard).arg(self.config.keep.as_secs());
        let (again, all): (bool, BTreeMap<String, String>) =
            self.script("keep what was heard of the language", &invocation).await?;
        Ok(Heard { again, all })
    }

    pub(super) async fn language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
    ) -> Result<Option<String>, Error> {
        let key = keys::language(shard, recording, generation);
        self.run("read the language", redis::cmd("GET").arg(key)).await
    }

    pub(super) async fn before(
        &self,
        shard: Shard,
        segment: &SegmentId,
        round: u32,
    ) -> Result<Before, Error> {
        let Some(index) = segment.index.checked_sub(1) else { return Ok(Before::Ended(None)) };
        let mut invocation = self.scripts.before.prepare_invoke();
        invocation.key(keys::tail(shard, segment.recording, segment.generation));
        invocation.key(keys::speech(shard, &SegmentId { index, ..*segment }, round));
        invocation.arg(place(round, segment.channel)).arg(index).arg(self.tail_kept_s());
        let (ended, tail, behind, since_ms): (bool, String, u32, u64) =
            self.script("read what the segment before left", &invocation).await?;
        Ok(match ended {
            true => Before::Ended((!tail.is_empty()).then_some(tail)),
            false => Before::Waits { behind, since: Duration::from_millis(since_ms) },
        })
    }

    fn tail_kept_s(&self) -> u64 {
        self.config.keep.min(TAIL_KEPT_MAX).as_secs()
    }

    pub(super) async fn leave_tail(
        &self,
        shard: Shard,
        segment: &SegmentId,
        round: u32,
        tail: &str,
    ) -> Result<(), Error> {
        let SegmentId { recording, generation, channel, index } = *segment;
        let mut invocation = self.scripts.leave_tail.prepare_invoke();
        invocation.key(keys::tail(shard, recording, generation)).key(keys::deleted(shard, recording));
        invocation.key(keys::cancelled(shard, recording, generation));
        invocation.arg(place(round, channel)).arg(index).arg(tail).arg(self.tail_kept_s());
        self.script::<u8>("keep what a segment leaves", &invocation).await.map(drop)
    }

    pub(super) async fn is_unread(
        &self,
        shard: Shard,
        segment: &SegmentId,
        round: u32,
    ) -> Result<bool, Error> {
        let key = keys::speech(shard, segment, round);
        self.run("look for a segment's speech", redis::cmd("EXISTS").arg(key)).await
    }

    pub(super) async fn announce_model(&self, note: &ModelNote, lasts: Duration) -> Result<(), Error> {
        let json = serde_json::to_string(note).expect("a note is plain data");
        let mut invocation = self.scripts.announce.prepare_invoke();
        invocation.key(keys::MODELS).key(keys::model(&note.name, &note.sha256));
        invocation.arg(&note.name).arg(json).arg(lasts.as_millis().max(1) as u64);
        self.script::<Value>("announce a model", &invocation).await.map(drop)
    }

    pub(super) async fn has_model(&self, name: &str, sha256: &str) -> Result<bool, Error> {
        self.run("look for a model", redis::cmd("EXISTS").arg(keys::model(name, sha256))).await
    }

    pub(super) async fn models(&self) -> Result<BTreeMap<String, ModelNote>, Error> {
        const ACTION: &str = "list models";
        let notes: BTreeMap<String, String> =
            self.run(ACTION, redis::cmd("HGETALL").arg(keys::MODELS)).await?;
        notes
            .into_iter()
            .map(|(name, json)| {
                Ok((name, serde_json::from_str(&json).map_err(|_| unexpected(ACTION, &json))?))
            })
            .collect()
    }

    pub(super) async fn lease(&self, chore: &str, holder: &str, length: Duration) -> Result<bool, Error> {
        let mut invocation = self.scripts.lease.prepare_invoke();
        invocation.key(keys::lease(chore)).arg(holder).arg(length.as_millis() as u64);
        Ok(self.script::<u8>("take a lease", &invocation).await? == 1)
    }
}

/// A channel's place among the tails of a transcription.
fn place(round: u32, channel: u16) -> String {
    format!("{round}.{channel}")
}
