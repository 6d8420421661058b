//! The log in this process's memory: for `voiceforge transcribe`, and for tests of everything above the streams.
//!
//! It does what the scripts do, in Rust, under one lock. Nothing survives the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use events::{Claim, Lane, RecordingId, SegmentId, Shard, Tenant};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::append::{Append, Appended, Erased};
use crate::dead::{Dead, DeadPlace};
use crate::keys::{self, Source};
use crate::log::*;
use crate::survey::Survey;

mod acts;
mod reading;

use reading::MemoryReader;

/// A log in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryLog {
    shards: u16,
    state: Arc<Mutex<State>>,
    appended: Arc<Notify>,
}

#[derive(Default)]
struct State {
    streams: HashMap<String, Stream>,
    strings: HashMap<String, Bytes>,
    /// What segments heard of their language, by key and segment.
    heard: HashMap<String, BTreeMap<String, String>>,
    /// What segments left for the next ones, by key, round and channel.
    tails: HashMap<String, HashMap<(u32, u16), Tails>>,
    counters: HashMap<String, (u64, u64)>,
    /// Entries ever done, by the key of their queue.
    done: HashMap<String, u64>,
    attempts: HashMap<String, HashMap<String, (u32, Instant)>>,
    models: BTreeMap<String, ModelNote>,
    /// Until when a model counts as there, by its key.
    announced: HashMap<String, Instant>,
    leases: HashMap<String, (String, Instant)>,
    /// The `seq` of erased facts, by recording.
    erased: HashMap<String, BTreeSet<u64>>,
    /// While set, what adds is refused as Redis refuses it at `maxmemory`.
    full: bool,
}

/// What segments of a channel left for the next ones.
#[derive(Default)]
struct Tails {
    /// The last ones, by segment.
    kept: BTreeMap<u32, String>,
    /// The last segment that left any.
    last: Option<u32>,
    /// When one first had to wait since.
    since: Option<Instant>,
}

#[derive(Default)]
struct Stream {
    last: u64,
    entries: BTreeMap<u64, Vec<(String, Bytes)>>,
    groups: HashMap<String, Group>,
}

#[derive(Default)]
struct Group {
    delivered: u64,
    pending: BTreeMap<u64, Pending>,
}

struct Pending {
    owner: String,
    /// When the lease was last renewed; `None` looks silent for ever.
    renewed: Option<Instant>,
    deliveries: u64,
}

impl MemoryLog {
    /// Makes an empty log of `shards` shards.
    pub fn new(shards: u16) -> MemoryLog {
        MemoryLog { shards, state: Arc::default(), appended: Arc::default() }
    }

    /// Makes the log refuse what adds to it, as Redis does at its memory limit.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Returns the facts of a shard in order, as JSON.
    pub fn facts(&self, shard: Shard) -> Vec<Entry> {
        let source = Source::Log(shard);
        self.entries(&source.key(), source)
    }

    /// Returns the entries of any stream by its key, as if they had been read from `source`.
    pub fn entries(&self, key: &str, source: Source) -> Vec<Entry> {
        let state = self.lock();
        let Some(stream) = state.streams.get(key) else { return Vec::new() };
        stream.entries.iter().map(|(id, fields)| entry(source, *id, fields.clone(), 1, 0)).collect()
    }

    /// Removes an entry behind the groups' backs, as an operator's XDEL does.
    pub fn remove(&self, source: Source, id: &str) {
        if let Some(stream) = self.lock().streams.get_mut(&source.key()) {
            stream.entries.remove(&number(id));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every operation either panics before it writes or leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stream_with_group(
        &mut self,
        group: &str,
        source: Source,
        action: &'static str,
    ) -> Result<&mut Stream, Error> {
        match self.streams.get_mut(&source.key()) {
            Some(stream) if stream.groups.contains_key(group) => Ok(stream),
            _ => Err(Error::NoGroup { action }),
        }
    }

    fn append(&mut self, key: &str, fields: Vec<(String, Bytes)>) -> u64 {
        let stream = self.streams.entry(key.to_owned()).or_default();
        stream.last += 1;
        stream.entries.insert(stream.last, fields);
        stream.last
    }

    /// Appends under an id that tells the time, as ids in Redis do.
    fn append_now(&mut self, key: &str, fields: Vec<(String, Bytes)>) {
        let stream = self.streams.entry(key.to_owned()).or_default();
        let now = u64::try_from(events::now().as_millisecond()).unwrap_or(0);
        stream.last = stream.last.max(now.saturating_sub(1));
        self.append(key, fields);
    }

    /// Lets a claim go if the recording still holds it.
    fn lapse(&mut self, shard: Shard, claim: &str, recording: RecordingId) {
        let key = keys::claim(shard, claim);
        let holder = format!("{recording}|");
        if self.strings.get(&key).is_some_and(|held| held.starts_with(holder.as_bytes())) {
            self.strings.remove(&key);
        }
    }

    fn append_fact(&mut self, shard: Shard, fact: &Message) {
        let seq = self.counters.entry(keys::seq(shard)).or_default();
        seq.0 += 1;
        let seq = seq.0.to_string();
        let fields = vec![
            ("seq".to_owned(), seq.into()),
            ("event_id".to_owned(), fact.event_id.clone().into()),
            ("event".to_owned(), fact.json.clone().into()),
        ];
        self.append(&Source::Log(shard).key(), fields);
    }

    fn append_work(&mut self, queue: Source, message: &Message) {
        let Message { event_id, json, ms, bytes } = message;
        let fields = vec![
            ("event_id".to_owned(), event_id.clone().into()),
            ("event".to_owned(), json.clone().into()),
            ("ms".to_owned(), ms.to_string().into()),
            ("bytes".to_owned(), bytes.to_string().into()),
        ];
        self.append(&queue.key(), fields);
        let counter = self.counters.entry(queue.counter()).or_default();
        counter.0 += ms;
        counter.1 += bytes;
    }

    /// Finds a pending entry of that identity, or says why there is none.
    fn pending(&mut self, group: &str, source: Source, id: u64, identity: &str) -> Result<Entry, Outcome> {
        let Some(stream) = self.streams.get_mut(&source.key()) else { return Err(Outcome::Lost) };
        let Some(group) = stream.groups.get_mut(group) else { return Err(Outcome::Lost) };
        if !group.pending.contains_key(&id) {
            return Err(Outcome::Lost);
        }
        let Some(fields) = stream.entries.get(&id) else { return Err(Outcome::Gone) };
        let entry = entry(source, id, fields.clone(), 1, 0);
        if entry.identity() == identity { Ok(entry) } else { Err(Outcome::Mismatch) }
    }

    fn acknowledge(&mut self, group: &str, source: Source, id: u64) {
        let stream = self.streams.get_mut(&source.key());
        if let Some(group) = stream.and_then(|stream| stream.groups.get_mut(group)) {
            group.pending.remove(&id);
        }
    }
}

fn entry(source: Source, id: u64, fields: Vec<(String, Bytes)>, deliveries: u64, attempts: u32) -> Entry {
    Entry { source, id: format!("{id}-0"), fields, deliveries, attempts }
}

fn number(id: &str) -> u64 {
    id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0)
}

#[async_trait]
impl Log for MemoryLog {
    fn shards(&self) -> u16 {
        self.shards
    }

    async fn fork(&self) -> Result<SharedLog, Error> {
        Ok(Arc::new(self.clone()))
    }

    async fn ensure_groups(&self, group: &str, sources: &[Source]) -> Result<(), Error> {
        let mut state = self.lock();
        for source in sources {
            let stream = state.streams.entry(source.key()).or_default();
            stream.groups.entry(group.to_owned()).or_default();
        }
        Ok(())
    }

    async fn reader(&self, group: &str, consumer: &str) -> Result<Box<dyn Reader>, Error> {
        let (group, consumer) = (group.to_owned(), consumer.to_owned());
        Ok(Box::new(MemoryReader { log: self.clone(), group, consumer }))
    }

    async fn take(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.take_new(group, consumer, source, count)
    }

    async fn own_pending(&self, group: &str, consumer: &str, source: Source) -> Result<Vec<Entry>, Error> {
        MemoryLog::own_pending(self, group, consumer, source)
    }

    async fn unsettled(&self, group: &str, consumer: &str, sources: &[Source]) -> Result<Vec<Source>, Error> {
        MemoryLog::unsettled(self, group, consumer, sources)
    }

    async fn claim(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        lease: Duration,
        count: usize,
    ) -> Result<Claimed, Error> {
        MemoryLog::claim(self, group, consumer, source, lease, count)
    }

    async fn heartbeat(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<Vec<bool>, Error> {
        MemoryLog::heartbeat(self, group, consumer, source, ids)
    }

    async fn hand_back(
        &self,
        group: &str,
        consumer: &str,
        source: Source,
        ids: &[String],
    ) -> Result<(), Error> {
        MemoryLog::hand_back(self, group, consumer, source, ids)
    }

    async fn retry(
        &self,
        group: &str,
        consumer: &str,
        entry: &Entry,
        attempts: u32,
        delay: Duration,
    ) -> Result<bool, Error> {
        MemoryLog::retry(self, group, consumer, entry, attempts, delay)
    }

    async fn leave(&self, _group: &str, _consumer: &str, _sources: &[Source]) -> Result<(), Error> {
        // A consumer that holds nothing leaves no trace here.
        Ok(())
    }

    async fn commit(&self, commit: &Commit) -> Result<Outcome, Error> {
        let mut state = self.lock();
        let id = number(&commit.id);
        state.stream_with_group(&commit.group, commit.source, "commit")?;
        let input = match state.pending(&commit.group, commit.source, id, &commit.identity) {
            Ok(input) => input,
            Err(Outcome::Gone) => {
                state.acknowledge(&commit.group, commit.source, id);
                return Ok(Outcome::Gone);
            }
            Err(outcome) => return Ok(outcome),
        };
        let shard = commit.source.shard().unwrap_or(Shard(0));
        let deleted = commit.recording.is_some_and(|r| state.strings.contains_key(&keys::deleted(shard, r)));
        let cancelled = commit.recording.zip(commit.generation).is_some_and(|(recording, generation)| {
            state.strings.contains_key(&keys::cancelled(shard, recording, generation))
        });
        if !deleted && !cancelled {
            commit.facts.iter().for_each(|fact| state.append_fact(shard, fact));
            commit.outputs.iter().for_each(|(queue, message)| state.append_work(*queue, message));
            if let Some(letter) = &commit.dead {
                let letter = letter.fields(commit.source, &commit.id).into_iter();
                let letter = letter.map(|(name, value)| (name.to_owned(), Bytes::from(value)));
                let fields = letter.chain(input.fields.iter().cloned()).collect();
                state.append_now(&commit.source.dead(), fields);
            }
        }
        state.acknowledge(&commit.group, commit.source, id);
        if let Some(kept) = state.attempts.get_mut(&commit.source.attempts(&commit.group)) {
            kept.remove(input.attempts_field());
        }
        if commit.source.deletes_done() {
            *state.done.entry(commit.source.key()).or_default() += 1;
            let stream = state.streams.get_mut(&commit.source.key());
            stream.and_then(|stream| stream.entries.remove(&id));
            let weight = |name| input.text(name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
            let (ms, bytes) = (weight("ms"), weight("bytes"));
            let counter = state.counters.entry(commit.source.counter()).or_default();
            *counter = (counter.0.saturating_sub(ms), counter.1.saturating_sub(bytes));
        }
        commit.delete.iter().for_each(|key| drop(state.strings.remove(key)));
        if let (Some(claim), Some(recording)) = (&commit.lapse, commit.recording) {
            state.lapse(shard, &claim.to_hex(), recording);
        }
        drop(state);
        self.appended.notify_waiters();
        Ok(match (deleted, cancelled) {
            (true, _) => Outcome::Deleted,
            (_, true) => Outcome::Cancelled,
            _ => Outcome::Done,
        })
    }

    async fn acknowledge(&self, group: &str, source: Source, ids: &[String]) -> Result<(), Error> {
        let mut state = self.lock();
        ids.iter().for_each(|id| state.acknowledge(group, source, number(id)));
        Ok(())
    }

    async fn emit(&self, emit: &Emit) -> Result<Emitted, Error> {
        let mut state = self.lock();
        if state.full {
            return Err(Error::Full { action: "emit a part" });
        }
        state.stream_with_group(&emit.group, emit.source, "emit a part")?;
        if let Err(outcome) = state.pending(&emit.group, emit.source, number(&emit.id), &emit.identity) {
            return Ok(Emitted::Ended(outcome));
        }
        let shard = emit.source.shard().unwrap_or(Shard(0));
        if state.strings.contains_key(&keys::deleted(shard, emit.recording)) {
            return Ok(Emitted::Ended(Outcome::Deleted));
        }
        if state.strings.contains_key(&keys::cancelled(shard, emit.recording, emit.generation)) {
            return Ok(Emitted::Ended(Outcome::Cancelled));
        }
        let cursor = state.strings.get(&emit.cursor).cloned().unwrap_or_default();
        if cursor == emit.next.as_bytes() {
            return Ok(Emitted::Repeated);
        }
        if cursor != emit.expected.as_bytes() {
            return Ok(Emitted::Stale);
        }
        state.strings.insert(emit.cursor.clone(), Bytes::from(emit.next.clone()));
        state.strings.insert(emit.speech_key.clone(), emit.speech.clone());
        state.append_work(emit.queue, &emit.message);
        drop(state);
        self.appended.notify_waiters();
        Ok(Emitted::Done)
    }

    async fn append(&self, append: &Append) -> Result<Appended, Error> {
        self.append_act(append)
    }

    async fn delete(&self, shard: Shard, recording: RecordingId, fact: &Message) -> Result<Appended, Error> {
        Ok(self.unwant(shard, recording, keys::deleted(shard, recording), fact))
    }

    async fn cancel(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        fact: &Message,
    ) -> Result<Appended, Error> {
        Ok(self.unwant(shard, recording, keys::cancelled(shard, recording, generation), fact))
    }

    async fn erase(&self, shard: Shard, recording: RecordingId) -> Result<Erased, Error> {
        Ok(self.erase_recording(shard, recording))
    }

    async fn cursor(&self, key: &str) -> Result<String, Error> {
        let cursor = self.lock().strings.get(key).cloned().unwrap_or_default();
        Ok(String::from_utf8_lossy(&cursor).into_owned())
    }

    async fn admit(&self, admit: &Admit) -> Result<Admission, Error> {
        let mut state = self.lock();
        if state.full {
            return Err(Error::Full { action: "admit a recording" });
        }
        if state.strings.contains_key(&keys::deleted(admit.shard, admit.recording)) {
            return Ok(Admission::Deleted);
        }
        let mark = keys::admitted(admit.shard, admit.recording);
        if state.strings.contains_key(&mark) {
            return Ok(Admission::Repeated);
        }
        let claim = admit.claim.as_ref().map(Claim::to_hex).unwrap_or_default();
        if !claim.is_empty() {
            let key = keys::claim(admit.shard, &claim);
            let holder = state.strings.get(&key).map(|held| String::from_utf8_lossy(held).into_owned());
            if let Some((recording, fingerprint)) = holder.as_deref().and_then(|held| held.split_once('|'))
                && let Ok(recording) = recording.parse()
                && recording != admit.recording
            {
                return Ok(Admission::Duplicate { recording, fingerprint: fingerprint.to_owned() });
            }
            state.strings.insert(key, format!("{}|{}", admit.recording, admit.fingerprint).into());
        }
        state.strings.insert(mark, claim.into());
        admit.facts.iter().for_each(|fact| state.append_fact(admit.shard, fact));
        if let Some((queue, message)) = &admit.work {
            state.append_work(*queue, message);
        }
        drop(state);
        self.appended.notify_waiters();
        Ok(Admission::Admitted)
    }

    async fn submit(&self, lane: Lane, fields: &[(String, Bytes)]) -> Result<String, Error> {
        let mut state = self.lock();
        if state.full {
            return Err(Error::Full { action: "hand in a drop" });
        }
        let id = state.append(&Source::Ingest(lane).key(), fields.to_vec());
        drop(state);
        self.appended.notify_waiters();
        Ok(format!("{id}-0"))
    }

    async fn set_drop_outcome(&self, drop_id: &str, outcome: &DropOutcome) -> Result<(), Error> {
        let json = serde_json::to_vec(outcome).expect("an outcome is plain data");
        self.lock().strings.insert(keys::drop_outcome(drop_id), json.into());
        Ok(())
    }

    async fn drop_outcome(&self, drop_id: &str) -> Result<Option<DropOutcome>, Error> {
        let kept = self.lock().strings.get(&keys::drop_outcome(drop_id)).cloned();
        Ok(kept.map(|json| serde_json::from_slice(&json).expect("written by set_drop_outcome()")))
    }

    async fn mark_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<(), Error> {
        let by = Bytes::copy_from_slice(tenant.as_str().as_bytes());
        self.lock().strings.insert(keys::drop_deleted(drop_id), by);
        Ok(())
    }

    async fn is_drop_deleted(&self, drop_id: &str, tenant: &Tenant) -> Result<bool, Error> {
        let state = self.lock();
        Ok(state.strings.get(&keys::drop_deleted(drop_id)).is_some_and(|by| by == tenant.as_str().as_bytes()))
    }

    async fn waiting_drop(&self, drop_id: &str) -> Result<Option<String>, Error> {
        let Some((queue, entry)) = keys::entry_of_drop(drop_id) else { return Ok(None) };
        let state = self.lock();
        let stream = state.streams.get(&queue.key());
        let Some(fields) = stream.and_then(|stream| stream.entries.get(&number(entry))) else {
            return Ok(None);
        };
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        if !entry.ends_with("-0") || field("drop").is_some_and(|own| keys::is_drop_id(own)) {
            return Ok(None);
        }
        Ok(Some(field("tenant").map_or(String::new(), |by| String::from_utf8_lossy(by).into_owned())))
    }

    async fn erase_drop(&self, drop_id: &str) -> Result<u64, Error> {
        let mut removed = 0;
        for dead in self.dead(DeadPlace::Drops, None, usize::MAX).await? {
            if dead.is_of_drop(drop_id) {
                removed += u64::from(self.drop_dead(DeadPlace::Drops, &dead.id).await?);
            }
        }
        Ok(removed)
    }

    async fn rewrite_file(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn file(&self) -> Result<AppendOnlyFile, Error> {
        Ok(AppendOnlyFile { server: String::new(), is_rewriting: false, is_good: true })
    }

    async fn speech(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<Option<Bytes>, Error> {
        Ok(self.lock().strings.get(&keys::speech(shard, segment, round)).cloned())
    }

    async fn settle_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        language: &str,
    ) -> Result<String, Error> {
        let mut state = self.lock();
        let key = keys::language(shard, recording, generation);
        let settled = state.strings.entry(key).or_insert_with(|| Bytes::from(language.to_owned()));
        Ok(String::from_utf8_lossy(settled).into_owned())
    }

    async fn hear_language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
        segment: &str,
        heard: &str,
    ) -> Result<Heard, Error> {
        let mut state = self.lock();
        let all = state.heard.entry(keys::heard(shard, recording, generation)).or_default();
        let again = all.contains_key(segment);
        all.entry(segment.to_owned()).or_insert_with(|| heard.to_owned());
        Ok(Heard { again, all: all.clone() })
    }

    async fn language(
        &self,
        shard: Shard,
        recording: RecordingId,
        generation: u32,
    ) -> Result<Option<String>, Error> {
        let kept = self.lock().strings.get(&keys::language(shard, recording, generation)).cloned();
        Ok(kept.map(|language| String::from_utf8_lossy(&language).into_owned()))
    }

    async fn before(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<Before, Error> {
        let Some(index) = segment.index.checked_sub(1) else { return Ok(Before::Ended(None)) };
        let mut state = self.lock();
        let is_unread =
            state.strings.contains_key(&keys::speech(shard, &SegmentId { index, ..*segment }, round));
        let key = keys::tail(shard, segment.recording, segment.generation);
        let tails = state.tails.entry(key).or_default().entry((round, segment.channel)).or_default();
        if !is_unread {
            return Ok(Before::Ended(tails.kept.get(&index).cloned()));
        }
        let behind = index.saturating_sub(tails.last.map_or(0, |last| last + 1)) + 1;
        Ok(Before::Waits { behind, since: tails.since.get_or_insert_with(Instant::now).elapsed() })
    }

    async fn leave_tail(
        &self,
        shard: Shard,
        segment: &SegmentId,
        round: u32,
        tail: &str,
    ) -> Result<(), Error> {
        let SegmentId { recording, generation, channel, index } = *segment;
        let mut state = self.lock();
        let marks = [keys::deleted(shard, recording), keys::cancelled(shard, recording, generation)];
        if marks.iter().any(|mark| state.strings.contains_key(mark)) {
            return Ok(());
        }
        let key = keys::tail(shard, recording, generation);
        let tails = state.tails.entry(key).or_default().entry((round, channel)).or_default();
        if tails.last.is_some_and(|last| index < last) {
            return Ok(());
        }
        tails.kept.retain(|kept, _| kept + 1 == index);
        tails.kept.insert(index, tail.to_owned());
        (tails.last, tails.since) = (Some(index), None);
        Ok(())
    }

    async fn is_unread(&self, shard: Shard, segment: &SegmentId, round: u32) -> Result<bool, Error> {
        Ok(self.lock().strings.contains_key(&keys::speech(shard, segment, round)))
    }

    async fn announce_model(&self, note: &ModelNote, lasts: Duration) -> Result<(), Error> {
        let mut state = self.lock();
        state.models.insert(note.name.clone(), note.clone());
        state.announced.insert(keys::model(&note.name, &note.sha256), Instant::now() + lasts);
        Ok(())
    }

    async fn has_model(&self, name: &str, sha256: &str) -> Result<bool, Error> {
        let until = self.lock().announced.get(&keys::model(name, sha256)).copied();
        Ok(until.is_some_and(|until| Instant::now() < until))
    }

    async fn models(&self) -> Result<BTreeMap<String, ModelNote>, Error> {
        Ok(self.lock().models.clone())
    }

    async fn backlogs(&self, sources: &[Source]) -> Result<Vec<Backlog>, Error> {
        let state = self.lock();
        let measure = |source: &Source| {
            let entries = state.streams.get(&source.key()).map_or(0, |stream| stream.entries.len() as u64);
            let (audio_ms, bytes) = state.counters.get(&source.counter()).copied().unwrap_or_default();
            Backlog { entries, audio_ms, bytes }
        };
        Ok(sources.iter().map(measure).collect())
    }

    async fn unread_facts(&self, group: &str, shard: Shard) -> Result<u64, Error> {
        let state = self.lock();
        let Some(stream) = state.streams.get(&Source::Log(shard).key()) else { return Ok(0) };
        let (delivered, pending) =
            stream.groups.get(group).map_or((0, 0), |group| (group.delivered, group.pending.len() as u64));
        Ok(stream.entries.range(delivered + 1..).count() as u64 + pending)
    }

    async fn facts(&self, shard: Shard, after: u64, count: usize) -> Result<Vec<Entry>, Error> {
        Ok(self.facts_after(shard, after, count))
    }

    async fn health(&self) -> Result<Health, Error> {
        Ok(Health { memory_share: if self.lock().full { 1.0 } else { 0.0 } })
    }

    async fn last_seq(&self, shard: Shard) -> Result<u64, Error> {
        Ok(self.lock().counters.get(&keys::seq(shard)).map_or(0, |seq| seq.0))
    }

    async fn trim(&self, shard: Shard, archived: u64) -> Result<Trimmed, Error> {
        let mut state = self.lock();
        let Some(stream) = state.streams.get_mut(&Source::Log(shard).key()) else {
            return Ok(Trimmed::default());
        };
        let Stream { entries, groups, .. } = stream;
        let needed = groups.iter().map(|(name, group)| {
            (group.pending.keys().next().copied().unwrap_or(group.delivered + 1), name.clone())
        });
        let Some((floor, holder)) = needed.min() else { return Ok(Trimmed::default()) };
        let seq = |fields: &Vec<(String, Bytes)>| {
            let field = fields.iter().find(|(name, _)| name == "seq");
            field.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse::<u64>().ok())
        };
        let unarchived = entries.iter().find(|(_, fields)| seq(fields).is_some_and(|seq| seq > archived));
        let unarchived = unarchived.map_or(u64::MAX, |(id, _)| *id);
        let before = entries.len();
        *entries = entries.split_off(&floor.min(unarchived));
        let held_by = (floor < unarchived && !entries.is_empty()).then_some(holder);
        Ok(Trimmed { facts: (before - entries.len()) as u64, held_by })
    }

    async fn dead_letters(&self, source: Source) -> Result<u64, Error> {
        Ok(self.lock().streams.get(&source.dead()).map_or(0, |stream| stream.entries.len() as u64))
    }

    async fn dead(&self, place: DeadPlace, after: Option<&str>, count: usize) -> Result<Vec<Dead>, Error> {
        Ok(self.list_dead(place, after.map_or(0, number), count))
    }

    async fn dead_letter(&self, place: DeadPlace, id: &str) -> Result<Option<Dead>, Error> {
        Ok(self.show_dead(place, id))
    }

    async fn drop_dead(&self, place: DeadPlace, id: &str) -> Result<bool, Error> {
        Ok(self.take_dead(place, id))
    }

    async fn revive(
        &self,
        dead: &Dead,
        facts: Vec<Message>,
        work: Option<(Source, Message)>,
    ) -> Result<bool, Error> {
        self.revive_dead(dead, &facts, work)
    }

    async fn survey(&self) -> Result<Survey, Error> {
        Ok(self.survey_all())
    }

    async fn lease(&self, chore: &str, holder: &str, length: Duration) -> Result<bool, Error> {
        let mut state = self.lock();
        let now = Instant::now();
        if state.leases.get(chore).is_some_and(|(other, until)| other != holder && *until > now) {
            return Ok(false);
        }
        state.leases.insert(chore.to_owned(), (holder.to_owned(), now + length));
        Ok(true)
    }
}
