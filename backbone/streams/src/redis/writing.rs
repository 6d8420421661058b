//! What brings new entries: emits, admissions, drops; and plain acknowledgement.

use bytes::Bytes;
use events::{Claim, Lane};

use super::RedisLog;
use super::reply::{self, unexpected};
use crate::failpoint;
use crate::keys::{self, Source};
use crate::log::{Admission, Admit, Emit, Emitted, Error, Message};

/// How long speech that went ahead waits for its script.
const AHEAD_SECONDS: u64 = 60;

impl RedisLog {
    pub(super) async fn acknowledge(&self, group: &str, source: Source, ids: &[String]) -> Result<(), Error> {
        for ids in ids.chunks(1000) {
            let mut command = redis::cmd("XACK");
            command.arg(source.key()).arg(group).arg(ids);
            self.run::<u64>("acknowledge facts", &command).await?;
        }
        Ok(())
    }

    pub(super) async fn emit(&self, emit: &Emit) -> Result<Emitted, Error> {
        const ACTION: &str = "emit a part";
        let shard = emit.source.shard().unwrap_or_default();
        // Speech goes ahead under a name nobody else uses, and the script moves it to its place: through the script
        // itself it would be copied twice more. What no script came for goes by itself.
        let ahead = format!("{}:{}", emit.speech_key, uuid::Uuid::new_v4().simple());
        loop {
            let mut send = redis::cmd("SET");
            send.arg(&ahead).arg(&emit.speech[..]).arg("EX").arg(AHEAD_SECONDS);
            self.run::<()>(ACTION, &send).await?;

            let mut invocation = self.scripts.emit.prepare_invoke();
            invocation.key(emit.source.key()).key(keys::deleted(shard, emit.recording));
            invocation.key(keys::cancelled(shard, emit.recording, emit.generation)).key(&emit.cursor);
            invocation.key(emit.queue.key()).key(emit.queue.counter()).key(&emit.speech_key).key(&ahead);
            invocation.arg(&emit.group).arg(&emit.id).arg(&emit.identity).arg(&emit.expected).arg(&emit.next);
            let Message { event_id, json, ms, bytes } = &emit.message;
            invocation.arg(event_id).arg(json).arg(ms).arg(bytes);
            let outcome: Result<String, Error> = self.script(ACTION, &invocation).await;
            if let Err(Error::Full { .. }) = outcome {
                // What waits for room must not take it.
                self.run::<u64>(ACTION, redis::cmd("DEL").arg(&ahead)).await?;
            }
            let outcome = outcome?;
            return Ok(match outcome.as_str() {
                "done" => Emitted::Done,
                "repeated" => Emitted::Repeated,
                "stale" => Emitted::Stale,
                // It waited too long for Redis, or Redis lost it.
                "speechless" => continue,
                other => Emitted::Ended(reply::outcome_of(other).ok_or_else(|| unexpected(ACTION, other))?),
            });
        }
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
        invocation.key(keys::deleted(admit.shard, admit.recording));
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
