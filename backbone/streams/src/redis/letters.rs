//! Dead letters: listed, shown, thrown away, revived.

use std::time::Duration;

use redis::Value;

use super::{RedisLog, reply};
use crate::append;
use crate::dead::{Dead, DeadPlace, LISTED_VALUE_BYTES};
use crate::failpoint;
use crate::keys::{self, Source};
use crate::log::{Error, Message};

/// Bytes that one call reads before it leaves the rest to the next: a call must not hold the server up.
const PAGE_BYTES: u64 = 1 << 20;
/// Dead drops of more bytes than this together are not written anew.
const DROPS_COPIED_BYTES: u64 = 16 << 20;
/// How long somebody else's copy is waited for before a new one begins: it may be left by a program that died.
const COPY_PATIENCE: Duration = Duration::from_secs(2);
const COPY_PAUSE: Duration = Duration::from_millis(20);

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
        let (mut letters, mut from) = (Vec::new(), from.to_owned());
        while letters.len() < count {
            let mut invocation = self.scripts.dead.prepare_invoke();
            invocation.key(place.key()).arg(&from).arg(to).arg(count - letters.len()).arg(largest);
            invocation.arg(PAGE_BYTES);
            let (more, page): (bool, Value) = self.script("read dead letters", &invocation).await?;
            letters.extend(reply::dead_of(page, place)?);
            match letters.last() {
                Some(last) if more => from = format!("({}", last.id),
                _ => break,
            }
        }
        Ok(letters)
    }

    pub(super) async fn show_dead(&self, place: DeadPlace, id: &str) -> Result<Option<Dead>, Error> {
        let largest = match place {
            DeadPlace::Drops => LISTED_VALUE_BYTES as u64,
            DeadPlace::Shard(_) => u64::MAX,
        };
        Ok(self.list_dead(place, id, id, 1, largest).await?.pop())
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
        let (revived, keep) = (keys::revived(dead.place, &dead.id), self.config.keep.as_secs());
        let DeadPlace::Shard(shard) = dead.place else {
            let queue = dead.source.unwrap_or(Source::Ingest(events::Lane::Batch));
            let mut invocation = self.scripts.resubmit.prepare_invoke();
            invocation.key(dead.place.key()).key(queue.key()).key(revived);
            invocation.arg(&dead.id).arg(dead.ours).arg(dead.lacking_drop_id()).arg(keep);
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
        let identity = append::identity(&facts, work.as_ref());
        invocation.key(revived).key(keys::appended(shard, identity));
        invocation.arg(&dead.id).arg(keep).arg(facts.len()).arg(u8::from(work.is_some()));
        for fact in &facts {
            invocation.arg(&fact.event_id).arg(&fact.json);
        }
        if let Some((_, Message { event_id, json, ms, bytes })) = &work {
            invocation.arg(event_id).arg(json).arg(ms).arg(bytes);
        }
        Ok(self.script::<u8>(ACTION, &invocation).await? == 1)
    }

    /// Has what was removed leave the memory and the files, also what a call that died had removed. Dead drops may hold more
    /// audio than there is room for a copy of; where they do, only large ones leave no bytes (an entry over 4 KB has a
    /// place of its own).
    pub(super) async fn compact_dead(&self, place: DeadPlace) -> Result<(), Error> {
        let most = if place == DeadPlace::Drops { DROPS_COPIED_BYTES } else { u64::MAX >> 12 };
        let (mut last, mut removed, mut copied) = (String::new(), 0, 0);
        let mut waited = Duration::ZERO;
        loop {
            let mut invocation = self.scripts.compact.prepare_invoke();
            invocation.key(place.key()).key(format!("{}:copy", place.key()));
            invocation.arg(&last).arg(removed).arg(PAGE_BYTES).arg(most.saturating_sub(copied));
            invocation.arg(u8::from(waited >= COPY_PATIENCE));
            let (state, at, removed_before, bytes): (String, String, u64, u64) =
                self.script("compact dead letters", &invocation).await?;
            match state.as_str() {
                "more" => (last, removed, copied) = (at, removed_before, copied + bytes),
                "again" => (last, removed, copied) = (at, 0, 0),
                "wait" => {
                    tokio::time::sleep(COPY_PAUSE).await;
                    waited += COPY_PAUSE;
                }
                _ => return Ok(()),
            }
        }
    }
}
