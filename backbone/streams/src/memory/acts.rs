//! What follows from no entry in hand: acts, erasure, dead letters, the survey.

use bytes::Bytes;
use events::{Lane, RecordingId, Shard};
use tokio::time::Instant;

use super::{MemoryLog, State, entry, number};
use crate::append::{self, Append, Appended, Erased, is_erased_with};
use crate::dead::{Dead, DeadPlace, LISTED_VALUE_BYTES};
use crate::keys::{self, Source};
use crate::log::*;
use crate::survey::{ConsumerState, GroupState, LogState, QueueState, Survey};

impl MemoryLog {
    pub(super) fn append_act(&self, append: &Append) -> Result<Appended, Error> {
        let mut state = self.lock();
        if append.work.is_some() && state.full {
            return Err(Error::Full { action: "append facts" });
        }
        if state.strings.contains_key(&keys::deleted(append.shard, append.recording)) {
            return Ok(Appended::Deleted);
        }
        let mark = keys::appended(append.shard, append.identity());
        if state.strings.insert(mark, Bytes::from_static(b"1")).is_some() {
            return Ok(Appended::Repeated);
        }
        append.facts.iter().for_each(|fact| state.append_fact(append.shard, fact));
        if let Some((queue, message)) = &append.work {
            state.append_work(*queue, message);
        }
        drop(state);
        self.appended.notify_waiters();
        Ok(Appended::Done)
    }

    /// Sets a mark of deletion or cancellation and appends the fact that says so.
    pub(super) fn unwant(
        &self,
        shard: Shard,
        recording: RecordingId,
        mark: String,
        fact: &Message,
    ) -> Appended {
        let mut state = self.lock();
        let deleted = keys::deleted(shard, recording);
        if mark != deleted && state.strings.contains_key(&deleted) {
            return Appended::Deleted;
        }
        if state.strings.insert(mark.clone(), fact.event_id.clone().into()).is_some() {
            return Appended::Repeated;
        }
        state.append_fact(shard, fact);
        if mark == deleted {
            let claim = state.strings.get(&keys::admitted(shard, recording)).cloned().unwrap_or_default();
            state.lapse(shard, &String::from_utf8_lossy(&claim), recording);
        }
        drop(state);
        self.appended.notify_waiters();
        Appended::Done
    }

    pub(super) fn erase_recording(&self, shard: Shard, recording: RecordingId) -> Erased {
        let mut state = self.lock();
        let mut erased = Erased::default();
        for queue in Source::work_of(shard) {
            let removed = state.erase_stream(&queue.key(), shard, recording);
            erased.work += removed.len() as u64;
            let weight = |name| removed.iter().map(|(_, entry)| weight(entry, name)).sum::<u64>();
            let counter = state.counters.entry(queue.counter()).or_default();
            *counter = (counter.0.saturating_sub(weight("ms")), counter.1.saturating_sub(weight("bytes")));
        }
        let log = Source::Log(shard);
        let removed = state.erase_stream(&log.key(), shard, recording);
        let kept = state.erased.entry(keys::erased(shard, recording)).or_default();
        kept.extend(removed.iter().filter_map(|(_, fact)| fact.text("seq")?.parse::<u64>().ok()));
        erased.seqs = kept.iter().copied().collect();
        erased.dead = state.erase_stream(&log.dead(), shard, recording).len() as u64;
        let of_recording = |key: &String| {
            let rest = key.strip_prefix(&format!("vf:{{{shard}}}:")).and_then(|rest| rest.split_once(':'));
            rest.is_some_and(|(kind, rest)| {
                matches!(kind, "cursor" | "heard" | "language" | "pcm" | "tail")
                    && rest.starts_with(&recording.to_string())
            })
        };
        state.strings.retain(|key, _| !of_recording(key));
        state.heard.retain(|key, _| !of_recording(key));
        state.tails.retain(|key, _| !of_recording(key));
        erased
    }

    pub(super) fn facts_after(&self, shard: Shard, after: u64, count: usize) -> Vec<Entry> {
        let facts = self.facts(shard);
        let above = |fact: &Entry| fact.text("seq").and_then(|seq| seq.parse::<u64>().ok()) > Some(after);
        facts.into_iter().filter(above).take(count.max(1)).collect()
    }

    pub(super) fn list_dead(&self, place: DeadPlace, after: u64, count: usize) -> Vec<Dead> {
        let state = self.lock();
        let Some(stream) = state.streams.get(&place.key()) else { return Vec::new() };
        let letters = stream.entries.range(after.saturating_add(1)..).take(count);
        letters.map(|(id, fields)| without_large(place, &format!("{id}-0"), fields)).collect()
    }

    pub(super) fn show_dead(&self, place: DeadPlace, id: &str) -> Option<Dead> {
        let state = self.lock();
        let fields = state.streams.get(&place.key())?.entries.get(&number(id))?;
        Some(match place {
            DeadPlace::Drops => without_large(place, id, fields),
            DeadPlace::Shard(_) => Dead::read(place, id, fields.clone(), Vec::new()),
        })
    }

    pub(super) fn take_dead(&self, place: DeadPlace, id: &str) -> bool {
        let mut state = self.lock();
        let stream = state.streams.get_mut(&place.key());
        stream.is_some_and(|stream| stream.entries.remove(&number(id)).is_some())
    }

    pub(super) fn revive_dead(
        &self,
        dead: &Dead,
        facts: &[Message],
        work: Option<(Source, Message)>,
    ) -> Result<bool, Error> {
        let adds = work.is_some() || dead.place == DeadPlace::Drops;
        if adds && self.lock().full {
            return Err(Error::Full { action: "revive a dead letter" });
        }
        let mut state = self.lock();
        let mark = keys::revived(dead.place, &dead.id);
        if state.strings.contains_key(&mark) {
            return Ok(true);
        }
        let letters = state.streams.get_mut(&dead.place.key());
        let Some(fields) = letters.and_then(|letters| letters.entries.remove(&number(&dead.id))) else {
            return Ok(false);
        };
        let whole = Dead::read(dead.place, &dead.id, fields, Vec::new());
        if let DeadPlace::Shard(shard) = dead.place
            && whole.envelope().is_some_and(|of| state.is_unwanted(shard, &of))
        {
            return Ok(false);
        }
        state.strings.insert(mark, Bytes::from_static(b"1"));
        match dead.place {
            DeadPlace::Drops => {
                let queue = whole.source.unwrap_or(Source::Ingest(Lane::Batch));
                let name = whole.lacking_drop_id();
                let mut fields = whole.fields;
                match fields.iter_mut().find(|(field, _)| field == "drop") {
                    _ if name.is_empty() => {}
                    Some((_, own)) => *own = name.into(),
                    None => fields.push(("drop".to_owned(), name.into())),
                }
                state.append(&queue.key(), fields);
            }
            DeadPlace::Shard(shard) => {
                if work.is_some() {
                    let mark = keys::appended(shard, append::identity(facts, work.as_ref()));
                    if state.strings.insert(mark, Bytes::from_static(b"1")).is_some() {
                        return Ok(true);
                    }
                }
                facts.iter().for_each(|fact| state.append_fact(shard, fact));
                if let Some((queue, message)) = &work {
                    state.append_work(*queue, message);
                }
            }
        }
        drop(state);
        self.appended.notify_waiters();
        Ok(true)
    }

    pub(super) fn survey_all(&self) -> Survey {
        let state = self.lock();
        let shards: Vec<Shard> = (0..self.shards).map(Shard).collect();
        let drops = [Source::Ingest(Lane::Rt), Source::Ingest(Lane::Batch)];
        let queues = drops.into_iter().chain(shards.iter().flat_map(|&shard| Source::work_of(shard)));
        let queues = queues.map(|source| {
            let (audio_ms, bytes) = state.counters.get(&source.counter()).copied().unwrap_or_default();
            let entries = state.streams.get(&source.key()).map_or(0, |stream| stream.entries.len() as u64);
            let backlog = Backlog { entries, audio_ms, bytes };
            let done = state.done.get(&source.key()).copied().unwrap_or(0);
            // Ids here are no times.
            QueueState { source, backlog, done, oldest_at: None, groups: state.groups_of(source) }
        });
        let logs = shards.iter().map(|&shard| {
            let source = Source::Log(shard);
            let stream = state.streams.get(&source.key());
            let first = stream.and_then(|stream| stream.entries.iter().next());
            let first = first.map(|(id, fields)| entry(source, *id, fields.clone(), 1, 0));
            LogState {
                shard,
                length: stream.map_or(0, |stream| stream.entries.len() as u64),
                first_seq: first.and_then(|first| first.text("seq")?.parse().ok()),
                last_seq: state.counters.get(&keys::seq(shard)).map_or(0, |seq| seq.0),
                groups: state.groups_of(source),
            }
        });
        let length = |place: DeadPlace| {
            state.streams.get(&place.key()).map_or(0, |stream| stream.entries.len() as u64)
        };
        Survey {
            queues: queues.collect(),
            logs: logs.collect(),
            dead: DeadPlace::all(self.shards).map(|place| (place, length(place))).collect(),
            ..Survey::default()
        }
    }
}

impl State {
    /// Tells whether nobody wants what an event would bring.
    fn is_unwanted(&self, shard: Shard, of: &events::Envelope) -> bool {
        self.strings.contains_key(&keys::deleted(shard, of.recording))
            || self.strings.contains_key(&keys::cancelled(shard, of.recording, of.generation))
    }

    /// Removes a recording's entries from one stream and its groups, with the speech they name.
    fn erase_stream(&mut self, key: &str, shard: Shard, recording: RecordingId) -> Vec<(u64, Entry)> {
        let Some(stream) = self.streams.get_mut(key) else { return Vec::new() };
        let mut removed = Vec::new();
        for (&id, fields) in &stream.entries {
            let found = entry(Source::Log(shard), id, fields.clone(), 1, 0);
            if found.field("event").is_some_and(|event| is_erased_with(recording, event)) {
                removed.push((id, found));
            }
        }
        for (id, found) in &removed {
            stream.entries.remove(id);
            for group in stream.groups.values_mut() {
                group.pending.remove(id);
            }
            for kept in self.attempts.values_mut() {
                kept.remove(found.attempts_field());
            }
        }
        removed
    }

    fn groups_of(&self, source: Source) -> Vec<GroupState> {
        let Some(stream) = self.streams.get(&source.key()) else { return Vec::new() };
        let group_state = |(name, group): (&String, &super::Group)| {
            let mut consumers: Vec<ConsumerState> = Vec::new();
            for pending in group.pending.values() {
                let idle =
                    pending.renewed.map_or(std::time::Duration::MAX, |renewed| Instant::now() - renewed);
                match consumers.iter_mut().find(|known| known.name == pending.owner) {
                    Some(known) => {
                        known.pending += 1;
                        known.idle = known.idle.min(idle);
                    }
                    None => consumers.push(ConsumerState { name: pending.owner.clone(), pending: 1, idle }),
                }
            }
            GroupState {
                name: name.clone(),
                pending: group.pending.len() as u64,
                unread: stream.entries.range(group.delivered + 1..).count() as u64,
                consumers,
            }
        };
        let mut groups: Vec<GroupState> = stream.groups.iter().map(group_state).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
    }
}

fn without_large(place: DeadPlace, id: &str, fields: &[(String, Bytes)]) -> Dead {
    let (large, fields): (Vec<_>, Vec<_>) =
        fields.iter().cloned().partition(|(_, value)| value.len() > LISTED_VALUE_BYTES);
    let large = large.into_iter().map(|(name, value)| (name, value.len() as u64)).collect();
    Dead::read(place, id, fields, large)
}

fn weight(entry: &Entry, name: &str) -> u64 {
    entry.text(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}
