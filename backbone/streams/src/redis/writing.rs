//! What ends entries and what brings new ones: commits, emits, admissions, drops.

use bytes::Bytes;
use events::{Claim, Lane, Shard};

use super::RedisLog;
use super::reply::{self, unexpected};
use crate::failpoint;
use crate::keys::{self, Source};
use crate::log::{Admission, Admit, Commit, Emit, Emitted, Error, Message, Outcome};

impl RedisLog {
    pub(super) async fn commit(&self, commit: &Commit) -> Result<Outcome, Error> {
        let Commit { source, facts, outputs, .. } = commit;
        let shard = source.shard().unwrap_or(Shard(0));
        let lapse = commit.lapse.as_ref().zip(commit.recording);
        let mut invocation = self.scripts.commit.prepare_invoke();
        invocation.key(source.key()).key(source.attempts(&commit.group)).key(source.counter());
        match source.shard() {
            Some(shard) => invocation.key(Source::Log(shard).key()).key(keys::seq(shard)),
            // A drop has neither log nor seq; these names keep the script's keys in its slot.
            None => invocation.key("{vf:ingest}:log").key("{vf:ingest}:seq"),
        };
        let mark = match commit.recording {
            Some(recording) => keys::deleted(shard, recording),
            None => format!("{}:none", source.dead()),
        };
        invocation.key(&mark);
        match (commit.recording, commit.generation) {
            (Some(recording), Some(generation)) => {
                invocation.key(keys::cancelled(shard, recording, generation))
            }
            _ => invocation.key(&mark),
        };
        invocation.key(source.dead());
        match lapse {
            Some((claim, _)) => invocation.key(keys::claim(shard, &claim.to_hex())),
            None => invocation.key(&mark),
        };
        for (queue, _) in outputs {
            invocation.key(queue.key()).key(queue.counter());
        }
        for key in &commit.delete {
            invocation.key(key);
        }

        let letter = commit.dead.as_ref().map(|letter| letter.fields(*source, &commit.id));
        let letter = letter.as_ref().map_or(&[][..], |fields| fields);
        invocation.arg(&commit.group).arg(&commit.id).arg(&commit.identity);
        invocation.arg(u8::from(source.deletes_done()));
        invocation.arg(facts.len()).arg(outputs.len()).arg(letter.len() * 2);
        invocation.arg(lapse.map_or_else(String::new, |(_, recording)| recording.to_string()));
        for fact in facts {
            invocation.arg(&fact.event_id).arg(&fact.json);
        }
        for (_, message) in outputs {
            invocation.arg(&message.event_id).arg(&message.json).arg(message.ms).arg(message.bytes);
        }
        for (field, value) in letter {
            invocation.arg(*field).arg(value);
        }
        let outcome: String = self.script("commit", &invocation).await?;
        reply::outcome_of(&outcome).ok_or_else(|| unexpected("commit", &outcome))
    }

    pub(super) async fn acknowledge(&self, group: &str, source: Source, ids: &[String]) -> Result<(), Error> {
        for ids in ids.chunks(1000) {
            let mut command = redis::cmd("XACK");
            command.arg(source.key()).arg(group).arg(ids);
            self.run::<u64>("acknowledge facts", &command).await?;
        }
        Ok(())
    }

    pub(super) async fn emit(&self, emit: &Emit) -> Result<Emitted, Error> {
        let shard = emit.source.shard().unwrap_or(Shard(0));
        let mut invocation = self.scripts.emit.prepare_invoke();
        invocation.key(emit.source.key()).key(keys::deleted(shard, emit.recording));
        invocation.key(keys::cancelled(shard, emit.recording, emit.generation)).key(&emit.cursor);
        invocation.key(emit.queue.key()).key(emit.queue.counter()).key(&emit.speech_key);
        invocation.arg(&emit.group).arg(&emit.id).arg(&emit.identity).arg(&emit.expected).arg(&emit.next);
        let Message { event_id, json, ms, bytes } = &emit.message;
        invocation.arg(event_id).arg(json).arg(ms).arg(bytes).arg(&emit.speech[..]);
        let outcome: String = self.script("emit a part", &invocation).await?;
        Ok(match outcome.as_str() {
            "done" => Emitted::Done,
            "repeated" => Emitted::Repeated,
            "stale" => Emitted::Stale,
            other => {
                Emitted::Ended(reply::outcome_of(other).ok_or_else(|| unexpected("emit a part", other))?)
            }
        })
    }

    pub(super) async fn admit(&self, admit: &Admit) -> Result<Admission, Error> {
        let mark = keys::admitted(admit.shard, admit.recording);
        let mut invocation = self.scripts.admit.prepare_invoke();
        invocation.key(&mark);
        let claim = admit.claim.as_ref().map(Claim::to_hex);
        match &claim {
            Some(claim) => invocation.key(keys::claim(admit.shard, claim)),
            None => invocation.key(&mark),
        };
        invocation.key(Source::Log(admit.shard).key()).key(keys::seq(admit.shard));
        match &admit.work {
            Some((queue, _)) => invocation.key(queue.key()).key(queue.counter()),
            None => invocation.key(&mark).key(&mark),
        };
        invocation.arg(admit.recording.to_string()).arg(&admit.fingerprint);
        invocation.arg(claim.unwrap_or_default()).arg(self.config.keep.as_secs());
        invocation.arg(admit.facts.len()).arg(u8::from(admit.work.is_some()));
        for fact in &admit.facts {
            invocation.arg(&fact.event_id).arg(&fact.json);
        }
        if let Some((_, Message { event_id, json, ms, bytes })) = &admit.work {
            invocation.arg(event_id).arg(json).arg(ms).arg(bytes);
        }
        failpoint::reach("admit.before");
        let reply: Vec<String> = self.script("admit a recording", &invocation).await?;
        failpoint::reach("admit.after");
        reply::admission_of(&reply).ok_or_else(|| unexpected("admit a recording", &reply.join(" ")))
    }

    pub(super) async fn submit(&self, lane: Lane, fields: &[(String, Bytes)]) -> Result<String, Error> {
        failpoint::reach("submit.before");
        let id = self.run("hand in a drop", &add_drop(lane, fields)).await?;
        failpoint::reach("submit.after");
        Ok(id)
    }
}

pub(super) fn add_drop(lane: Lane, fields: &[(String, Bytes)]) -> redis::Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(Source::Ingest(lane).key()).arg("*");
    for (name, value) in fields {
        command.arg(name).arg(&value[..]);
    }
    command
}
