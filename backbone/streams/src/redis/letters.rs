//! Dead letters: listed, shown, thrown away, revived.

use redis::Value;

use super::{RedisLog, reply};
use crate::dead::{Dead, DeadPlace, LISTED_VALUE_BYTES};
use crate::failpoint;
use crate::keys::{self, Source};
use crate::log::{Error, Message};

impl RedisLog {
    pub(super) async fn list_dead(
        &self,
        place: DeadPlace,
        from: &str,
        to: &str,
        count: usize,
        largest: u64,
    ) -> Result<Vec<Dead>, Error> {
        let bounds = [from.trim_start_matches('('), to];
        if !bounds.iter().all(|id| matches!(*id, "-" | "+") || reply::is_id(id)) {
            return Ok(Vec::new());
        }
        let mut invocation = self.scripts.dead.prepare_invoke();
        invocation.key(place.key()).arg(from).arg(to).arg(count).arg(largest);
        let value: Value = self.script("read dead letters", &invocation).await?;
        reply::dead_of(value, place)
    }

    pub(super) async fn list_dead_after(
        &self,
        place: DeadPlace,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<Dead>, Error> {
        let from = after.map_or("-".to_owned(), |after| format!("({after}"));
        self.list_dead(place, &from, "+", count, LISTED_VALUE_BYTES as u64).await
    }

    pub(super) async fn remove_dead(&self, place: DeadPlace, id: &str) -> Result<bool, Error> {
        if !reply::is_id(id) {
            return Ok(false);
        }
        let mut command = redis::cmd("XDEL");
        command.arg(place.key()).arg(id);
        Ok(self.run::<u64>("drop a dead letter", &command).await? == 1)
    }

    pub(super) async fn revive(
        &self,
        dead: &Dead,
        facts: Vec<Message>,
        work: Option<(Source, Message)>,
    ) -> Result<bool, Error> {
        failpoint::reach("revive.before");
        let revived = self.revive_dead(dead, facts, work).await?;
        failpoint::reach("revive.after");
        Ok(revived)
    }

    async fn revive_dead(
        &self,
        dead: &Dead,
        facts: Vec<Message>,
        work: Option<(Source, Message)>,
    ) -> Result<bool, Error> {
        const ACTION: &str = "revive a dead letter";
        let DeadPlace::Shard(shard) = dead.place else {
            let queue = dead.source.unwrap_or(Source::Ingest(events::Lane::Batch));
            let mut invocation = self.scripts.resubmit.prepare_invoke();
            invocation.key(dead.place.key()).key(queue.key());
            // Its entry there will be another one.
            let name = if dead.own_drop_id().is_some() { String::new() } else { dead.entry_drop_id() };
            invocation.arg(&dead.id).arg(dead.ours).arg(name);
            return Ok(self.script::<u8>(ACTION, &invocation).await? == 1);
        };
        let script = if work.is_some() { &self.scripts.revive_work } else { &self.scripts.revive };
        let mut invocation = script.prepare_invoke();
        invocation.key(dead.place.key());
        let none = format!("{}:none", dead.place.key());
        match dead.envelope() {
            Some(envelope) => {
                invocation.key(keys::deleted(shard, envelope.recording));
                invocation.key(keys::cancelled(shard, envelope.recording, envelope.generation))
            }
            None => invocation.key(&none).key(&none),
        };
        invocation.key(Source::Log(shard).key()).key(keys::seq(shard));
        match &work {
            Some((queue, _)) => invocation.key(queue.key()).key(queue.counter()),
            None => invocation.key(&none).key(&none),
        };
        invocation.arg(&dead.id).arg(facts.len()).arg(u8::from(work.is_some()));
        for fact in &facts {
            invocation.arg(&fact.event_id).arg(&fact.json);
        }
        if let Some((_, Message { event_id, json, ms, bytes })) = &work {
            invocation.arg(event_id).arg(json).arg(ms).arg(bytes);
        }
        Ok(self.script::<u8>(ACTION, &invocation).await? == 1)
    }

    pub(super) async fn compact_dead(&self, place: DeadPlace) -> Result<(), Error> {
        let mut invocation = self.scripts.compact.prepare_invoke();
        invocation.key(place.key()).key(format!("{}:copy", place.key()));
        self.script::<u64>("compact dead letters", &invocation).await.map(drop)
    }
}
