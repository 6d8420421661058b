//! Facts that follow from no entry in hand, and the erasure of a recording.

use events::{Decoded, Event, RecordingId, SegmentId, Shard};
use redis::Value;

use super::RedisLog;
use super::reply::{self, unexpected};
use crate::append::{Append, Appended, Erased, is_erased_with};
use crate::dead::DeadPlace;
use crate::failpoint;
use crate::keys::{self, Source};
use crate::log::{Entry, Error, Message};

/// Entries that one call of `find.lua` looks at: a call must not hold the server up.
const PAGE: usize = 200;

/// Languages are removed for at least so many generations, whether traces of them were found or not. They lapse by
/// themselves after a while.
const GENERATIONS: u32 = 64;

impl RedisLog {
    pub(super) async fn append_act(&self, append: &Append) -> Result<Appended, Error> {
        let Append { shard, recording, facts, work } = append;
        let mark = keys::appended(*shard, append.identity());
        let script = if work.is_some() { &self.scripts.append_work } else { &self.scripts.append };
        let mut invocation = script.prepare_invoke();
        invocation.key(&mark).key(keys::deleted(*shard, *recording));
        invocation.key(Source::Log(*shard).key()).key(keys::seq(*shard));
        match work {
            Some((queue, _)) => invocation.key(queue.key()).key(queue.counter()),
            None => invocation.key(&mark).key(&mark),
        };
        invocation.arg(self.config.keep.as_secs()).arg(facts.len()).arg(u8::from(work.is_some()));
        for fact in facts {
            invocation.arg(&fact.event_id).arg(&fact.json);
        }
        if let Some((_, Message { event_id, json, ms, bytes })) = work {
            invocation.arg(event_id).arg(json).arg(ms).arg(bytes);
        }
        failpoint::reach("append.before");
        let answer: String = self.script("append facts", &invocation).await?;
        failpoint::reach("append.after");
        reply::appended_of(&answer).ok_or_else(|| unexpected("append facts", &answer))
    }

    /// Sets a mark of deletion or cancellation and appends the fact that says so. A deleted recording answers for no
    /// drop any more: its claim lapses.
    pub(super) async fn unwant(
        &self,
        shard: Shard,
        recording: RecordingId,
        mark: String,
        fact: &Message,
    ) -> Result<Appended, Error> {
        const ACTION: &str = "mark as not wanted";
        let deleted = keys::deleted(shard, recording);
        let mut claim = None;
        if mark == deleted {
            let admitted: Option<String> =
                self.run(ACTION, redis::cmd("GET").arg(keys::admitted(shard, recording))).await?;
            claim = admitted.filter(|claim| !claim.is_empty());
        }
        let mut invocation = self.scripts.unwant.prepare_invoke();
        invocation.key(&mark).key(deleted);
        invocation.key(Source::Log(shard).key()).key(keys::seq(shard));
        invocation.key(claim.as_ref().map_or_else(|| mark.clone(), |claim| keys::claim(shard, claim)));
        invocation.arg(self.config.keep.as_secs()).arg(&fact.event_id).arg(&fact.json);
        invocation.arg(claim.map_or_else(String::new, |_| recording.to_string()));
        failpoint::reach("unwant.before");
        let answer: String = self.script(ACTION, &invocation).await?;
        failpoint::reach("unwant.after");
        reply::appended_of(&answer).ok_or_else(|| unexpected(ACTION, &answer))
    }

    pub(super) async fn erase_recording(
        &self,
        shard: Shard,
        recording: RecordingId,
    ) -> Result<Erased, Error> {
        failpoint::reach("erase.before");
        let mut erased = Erased::default();
        let mut generations = GENERATIONS;
        for queue in Source::work_of(shard) {
            let (removed, last) = self.erase_stream(queue, &queue.key(), recording).await?;
            erased.work += removed;
            generations = generations.max(last.saturating_add(1));
        }
        let log = Source::Log(shard);
        let (_, last) = self.erase_stream(log, &log.key(), recording).await?;
        generations = generations.max(last.saturating_add(1));
        erased.dead = self.erase_stream(log, &log.dead(), recording).await?.0;
        self.compact_dead(DeadPlace::Shard(shard)).await?;
        let notes: Vec<String> = (0..generations.min(GENERATIONS * 16))
            .flat_map(|generation| {
                [keys::language, keys::heard, keys::tail].map(|key| key(shard, recording, generation))
            })
            .collect();
        self.run::<u64>("erase a recording", redis::cmd("UNLINK").arg(&notes)).await?;
        let mut command = redis::cmd("LRANGE");
        command.arg(keys::erased(shard, recording)).arg(0).arg(-1);
        erased.seqs = self.run("read what was erased", &command).await?;
        erased.seqs.sort_unstable();
        erased.seqs.dedup();
        failpoint::reach("erase.after");
        Ok(erased)
    }

    /// Removes a recording's entries from one stream; returns their number and their highest generation.
    async fn erase_stream(
        &self,
        source: Source,
        key: &str,
        recording: RecordingId,
    ) -> Result<(u64, u32), Error> {
        const ACTION: &str = "erase a recording";
        let groups = self.groups_of(key).await?;
        let shard = source.shard().unwrap_or_default();
        let (mut removed, mut generation, mut from) = (0, 0, "-".to_owned());
        while !from.is_empty() {
            let mut find = self.scripts.find.prepare_invoke();
            find.key(key).arg(recording.to_string()).arg(&from).arg(PAGE);
            let (next, page): (String, Value) = self.script(ACTION, &find).await?;
            from = next;

            let mut erase = self.scripts.erase.prepare_invoke();
            // What is dead is counted nowhere, nor are facts.
            let counted = source.deletes_done() && key == source.key();
            erase.key(key).key(if counted { source.counter() } else { key.to_owned() });
            erase.key(keys::erased(shard, recording));
            erase.arg(groups.len()).arg(self.config.keep.as_secs());
            for group in &groups {
                erase.key(source.attempts(&group.name)).arg(&group.name);
            }
            let mut any = false;
            for entry in reply::range_of(page, source)? {
                let Some((found, belonging)) = belongings(&entry, recording) else { continue };
                generation = generation.max(found);
                any = true;
                erase.arg(&entry.id).arg(entry.text("event_id").unwrap_or_default());
                if let Some(key) = belonging {
                    erase.key(key);
                }
            }
            if any {
                removed += self.script::<u64>(ACTION, &erase).await?;
                failpoint::reach("erase.page");
            }
        }
        Ok((removed, generation))
    }
}

/// Tells whether an entry is to go with its recording: its generation, and the key that lives as long as it does.
fn belongings(entry: &Entry, recording: RecordingId) -> Option<(u32, Option<String>)> {
    let event = entry.field("event")?;
    if !is_erased_with(recording, event) {
        return None;
    }
    let Ok(Decoded::Known(envelope)) = events::decode(event) else { return Some((0, None)) };
    let (generation, round) = (envelope.generation, envelope.round);
    let key = match &envelope.event {
        Event::SegmentCut(cut) => {
            let (channel, index) = (cut.channel, cut.index);
            let segment = SegmentId { recording, generation, channel, index };
            Some(keys::speech(envelope.shard, &segment, round))
        }
        Event::TranscriptionRequested(_) => Some(keys::cursor(envelope.shard, recording, generation, round)),
        _ => None,
    };
    Some((generation, key))
}
