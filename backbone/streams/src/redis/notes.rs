//! Small values that programs agree on: cursors, outcomes of drops, speech, languages, models, leases.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use events::{RecordingId, SegmentId, Shard};
use redis::Value;

use super::RedisLog;
use super::reply::unexpected;
use crate::failpoint;
use crate::keys;
use crate::log::{DropOutcome, Error, Heard, ModelNote};

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

    pub(super) async fn announce_model(&self, note: &ModelNote) -> Result<(), Error> {
        let json = serde_json::to_string(note).expect("a note is plain data");
        let mut invocation = self.scripts.announce.prepare_invoke();
        invocation.key(keys::MODELS).arg(&note.name).arg(json);
        self.script::<Value>("announce a model", &invocation).await.map(drop)
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
