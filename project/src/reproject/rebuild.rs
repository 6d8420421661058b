//! The steps of a rebuild.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use events::{EventId, RecordingId, Shard};
use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use streams::{SharedLog, failpoint};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until};
use views::verify::{PAGE_LEN, Recordings, TABLES};
use views::{Building, Difference, Entry, Schema, Switched, Views};

use super::{Options, Progress, Rebuilt, Step};
use crate::history::{Ends, History, Origin};

/// How long a server that does not answer, or a fact that cannot be read yet, is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How long readers and writers wait for a switch at most, and how often it is tried.
const SWITCH_PATIENCE: Duration = Duration::from_millis(250);
const SWITCH_ATTEMPTS: u32 = 120;
const SWITCH_PAUSE: Duration = Duration::from_millis(500);

/// Differences that are listed; the others are counted.
const LISTED_MAX: usize = 100;

/// Does something again while it fails in a way that passes, for a while.
macro_rules! patiently {
    ($work:expr) => {{
        let until = Instant::now() + PATIENCE;
        loop {
            match $work.await {
                Err(error) if error.is_transient() && Instant::now() < until => {
                    tracing::warn!(%error, "cannot go on just now, trying again");
                    sleep(RETRY_PAUSE).await;
                }
                done => break done,
            }
        }
    }};
}

pub(super) struct Rebuild {
    building: Building,
    serving: Option<Schema>,
    options: Options,
    progress: watch::Sender<Progress>,
    histories: Vec<Mutex<History>>,
    /// When the next fact may be folded, where that is limited.
    due: Mutex<Instant>,
    /// While rows are compared: recordings that are not known to be the same.
    unsure: Mutex<Recordings>,
    /// While rows are compared: recordings of which a fact was folded since this was last looked at.
    moved: Mutex<BTreeSet<RecordingId>>,
    /// Late facts that this run folded.
    stragglers: Mutex<BTreeSet<EventId>>,
}

impl Rebuild {
    pub async fn begin(
        views: Views,
        log: SharedLog,
        options: Options,
        progress: watch::Sender<Progress>,
    ) -> anyhow::Result<Rebuild> {
        views.check().await.context("look at the database")?;
        let total = archived_events(&views).await?;
        if total == 0 && views.building().await?.is_none() && is_empty(&log).await? {
            bail!("nothing to do: no fact was ever archived, and the log holds none");
        }
        let serving = match views.serving().await {
            Ok(schema) => views.is_there(&schema).await?.then_some(schema),
            Err(views::Error::NotInstalled) => None,
            Err(error) => return Err(error.into()),
        };
        let building = views.build().await.context("begin a new version of the read side")?;
        let positions = building.positions().await?;
        let history = |shard| {
            let position = positions.get(&shard).copied().unwrap_or_default();
            Mutex::new(History::new(views.clone(), SharedLog::clone(&log), shard, position.seq))
        };
        let histories = (0..log.shards()).map(|shard| history(Shard(shard))).collect();
        progress.send_modify(|progress| {
            progress.schema = Some(building.schema().clone());
            progress.folded = positions.values().map(|position| position.events).sum();
            progress.total = total;
        });
        Ok(Rebuild {
            building,
            serving,
            options,
            progress,
            histories,
            due: Mutex::new(Instant::now()),
            unsure: Mutex::default(),
            moved: Mutex::default(),
            stragglers: Mutex::default(),
        })
    }

    pub async fn run(self) -> anyhow::Result<Rebuilt> {
        self.step(Step::Archive);
        self.fold_archive().await?;
        self.step(Step::Index);
        self.building.finish().await.context("make the indexes")?;
        self.step(Step::Log);
        self.follow().await?;
        failpoint::reach("reproject.log");
        let mut differences = Differences::default();
        if self.serving.is_some() {
            self.step(Step::Verify);
            differences = self.verify().await?;
            failpoint::reach("reproject.verify");
        }
        let agree = differences.count == 0 || self.options.accept_differences;
        let mut serves = false;
        if agree && !self.options.verify_only {
            self.step(Step::Switch);
            failpoint::reach("reproject.switch");
            let more = self.switch().await?;
            serves = more.count == 0;
            differences.extend(more);
            failpoint::reach("reproject.switched");
        }
        if serves {
            self.step(Step::Done);
        }
        Ok(Rebuilt {
            schema: self.building.schema().clone(),
            replaced: self.serving.clone(),
            serves,
            differences: differences.listed,
            different: differences.count,
            folded: self.progress.borrow().folded_now,
            taken_over: self.progress.borrow().taken_over,
        })
    }

    fn step(&self, step: Step) {
        tracing::info!(schema = %self.building.schema(), step = step.as_str(), "rebuild");
        self.progress.send_modify(|progress| progress.step = step);
    }

    /// Folds the archive of all shards, some at once.
    async fn fold_archive(&self) -> anyhow::Result<()> {
        let shards: Vec<_> = self.histories.iter().map(|history| self.fold_shard(history).boxed()).collect();
        stream::iter(shards).buffer_unordered(self.options.parallel.max(1)).try_collect().await
    }

    async fn fold_shard(&self, history: &Mutex<History>) -> anyhow::Result<()> {
        let mut history = history.lock().await;
        let end = self.ends(&history).await?.archive;
        while history.archived() < end && self.fold_next(&mut history).await? == Some(Origin::Archive) {
            if self.progress.borrow().folded_now > 0 {
                failpoint::reach("reproject.archive");
            }
        }
        Ok(())
    }

    /// Folds what came in until now, in all shards. What comes in meanwhile is left to the next call: there may always be
    /// one more.
    async fn follow(&self) -> anyhow::Result<()> {
        for history in &self.histories {
            let mut history = history.lock().await;
            let ends = self.ends(&history).await?;
            while !history.has_reached(ends) && self.fold_next(&mut history).await?.is_some() {}
        }
        self.fold_stragglers().await
    }

    async fn ends(&self, history: &History) -> anyhow::Result<Ends> {
        patiently!(history.ends())
            .with_context(|| format!("look where the history of shard {} ends", history.shard()))
    }

    /// Folds what came to places that were passed.
    async fn fold_stragglers(&self) -> anyhow::Result<()> {
        let mut entries = patiently!(self.building.stragglers()).context("look for late facts")?;
        let mut known = self.stragglers.lock().await;
        entries.retain(|entry| !known.contains(&entry.event_id()));
        if !entries.is_empty() {
            patiently!(self.building.fold_stragglers(entries.clone())).context("fold late facts")?;
            known.extend(entries.iter().map(Entry::event_id));
            self.note(&entries).await;
        }
        Ok(())
    }

    /// While rows are compared, notes of which recordings facts were folded.
    async fn note(&self, entries: &[Entry]) {
        if matches!(self.progress.borrow().step, Step::Verify | Step::Switch) {
            let recordings = || entries.iter().map(|entry| (entry.recording(), entry.submitted_at()));
            self.unsure.lock().await.extend(recordings());
            self.moved.lock().await.extend(recordings().map(|(id, _)| id));
        }
    }

    /// Folds the next facts of a shard; tells where they came from, `None` when there are none just now.
    async fn fold_next(&self, history: &mut History) -> anyhow::Result<Option<Origin>> {
        let shard = history.shard();
        let from = history.archived();
        let facts = patiently!(history.next(self.options.batch))
            .with_context(|| format!("read the history of shard {shard}"))?;
        let Some(facts) = facts else { return Ok(None) };
        let count = facts.entries.len() as u64;
        self.wait_for_turn(count).await;
        self.note(&facts.entries).await;
        if from != facts.archived || count > 0 {
            patiently!(self.building.fold(shard, from, facts.archived, facts.entries.clone()))
                .with_context(|| format!("fold facts of shard {shard} up to seq {}", facts.archived))?;
        }
        self.progress.send_modify(|progress| {
            progress.folded += count;
            progress.folded_now += count;
            progress.total = progress.total.max(progress.folded);
        });
        Ok(Some(facts.origin))
    }

    /// Keeps to the limit of facts in a second.
    async fn wait_for_turn(&self, count: u64) {
        let Some(limit) = self.options.events_per_second else { return };
        let turn = {
            let mut due = self.due.lock().await;
            let turn = (*due).max(Instant::now());
            *due = turn + Duration::from_secs_f64(count as f64 / f64::from(limit.max(1)));
            turn
        };
        sleep_until(turn).await;
    }

    /// Compares every row with the version that serves. Both move on meanwhile: what differs at the first look is looked
    /// at again once this version has caught up, until it is the same or nothing about it moves any more.
    async fn verify(&self) -> anyhow::Result<Differences> {
        for table in TABLES {
            let mut after = None;
            loop {
                let (found, end) =
                    patiently!(self.building.compare_page(table, after)).context("compare rows")?;
                self.unsure.lock().await.extend(found.iter().map(|d| (d.recording, d.submitted_at)));
                self.progress.send_modify(|progress| progress.compared += u64::from(PAGE_LEN));
                after = end;
                if after.is_none() {
                    break;
                }
                self.follow().await?;
            }
        }
        self.settle().await
    }

    /// Takes over as they stand those recordings that differ because their events went by age. Returns how many.
    async fn take_over(&self, recordings: &Recordings) -> anyhow::Result<u64> {
        let mut taken = 0;
        for part in parts(recordings) {
            taken += patiently!(self.building.take_over(&part)).context("take over what expired")?;
        }
        if taken > 0 {
            self.building.add_up().await.context("add up usage")?;
            tracing::info!(recordings = taken, "taken over as they stood: their events went by age");
        }
        self.progress.send_modify(|progress| progress.taken_over += taken);
        Ok(taken)
    }

    /// Folds recordings anew from the archive alone.
    async fn refold(&self, recordings: &Recordings) -> anyhow::Result<()> {
        for part in parts(recordings) {
            let folded = patiently!(self.building.refold(&part)).context("fold recordings anew")?;
            tracing::info!(
                recordings = folded.len(),
                "folded anew: the log had told otherwise than the archive"
            );
            self.unsure.lock().await.extend(folded);
        }
        Ok(())
    }

    /// Looks again at what differed, and at what was folded since: it is the same once both versions have all facts of it.
    /// What differs while no fact of it comes in any more is folded anew from the archive, and if it differs then, differs for
    /// good.
    async fn settle(&self) -> anyhow::Result<Differences> {
        let begun = Instant::now();
        let mut still_since: BTreeMap<RecordingId, Instant> = BTreeMap::new();
        let mut refolded = BTreeSet::new();
        loop {
            self.follow().await?;
            let ahead = self.ahead().await;
            let (later, now): (Recordings, Recordings) = std::mem::take(&mut *self.unsure.lock().await)
                .into_iter()
                .partition(|(recording, _)| ahead.contains(recording));
            let mut differences = self.compare(&now).await?;
            let differ: Recordings = differences.iter().map(|d| (d.recording, d.submitted_at)).collect();
            if self.take_over(&differ).await? > 0 {
                differences = self.compare(&now).await?;
            }
            let mut unsure = self.unsure.lock().await;
            // What is in the way of a look at the others is looked at when the archive has it.
            unsure.extend(later.iter().map(|(&recording, &at)| (recording, at)));
            unsure.extend(differences.iter().map(|d| (d.recording, d.submitted_at)));
            drop(unsure);
            let left: BTreeSet<RecordingId> = differences.iter().map(|d| d.recording).collect();
            still_since.retain(|recording, _| left.contains(recording));
            for &recording in &left {
                let moved = self.moved.lock().await.remove(&recording);
                let since = still_since.entry(recording).or_insert_with(Instant::now);
                if moved {
                    *since = Instant::now();
                }
            }
            let for_good = |d: &Difference| still_since[&d.recording].elapsed() > SETTLE;
            let stale = differences.iter().filter(|d| for_good(d) && !refolded.contains(&d.recording));
            let stale: Recordings = stale.map(|d| (d.recording, d.submitted_at)).collect();
            if !stale.is_empty() {
                self.refold(&stale).await?;
                refolded.extend(stale.into_keys());
                continue;
            }
            if left.is_empty() || begun.elapsed() > SETTLE_MAX || differences.iter().all(for_good) {
                // Without what the archive has lost, these would be switched to with their newest facts alone.
                let expired = patiently!(self.building.count_expired(&later)).context("look what expired")?;
                if expired > 0 && begun.elapsed() <= SETTLE_MAX {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
                ensure!(
                    expired == 0,
                    "{expired} recordings whose first events went by age have new facts that are not archived: see that \
                     voiceforge-project runs and keeps up (`voiceforge top`), then run this again"
                );
                self.moved.lock().await.clear();
                return Ok(Differences::of(differences.into_iter().filter(for_good).collect()));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn compare(&self, recordings: &Recordings) -> anyhow::Result<Vec<Difference>> {
        let mut found = Vec::new();
        for part in parts(recordings) {
            found.extend(patiently!(self.building.compare_recordings(&part)).context("compare rows")?);
        }
        Ok(found)
    }

    /// Recordings of which the log has told this version more than the archive has told the one that serves.
    async fn ahead(&self) -> BTreeSet<RecordingId> {
        let mut ahead = BTreeSet::new();
        for history in &self.histories {
            ahead.extend(history.lock().await.ahead());
        }
        ahead
    }

    /// Switches, as soon as there is a moment in which it can be done at once.
    async fn switch(&self) -> anyhow::Result<Differences> {
        let compare = self.serving.is_some() && !self.options.accept_differences;
        for _ in 0..SWITCH_ATTEMPTS {
            if compare {
                let differences = self.settle().await?;
                if differences.count > 0 {
                    return Ok(differences);
                }
            } else {
                self.follow().await?;
            }
            let (unsure, ahead) = (self.unsure.lock().await.clone(), self.ahead().await);
            match patiently!(self.building.switch(&unsure, &ahead, compare, SWITCH_PATIENCE))
                .context("switch")?
            {
                Switched::Done => return Ok(Differences::default()),
                // The version that serves may have been given something in this very moment: looked at again.
                Switched::Differs(_) | Switched::Busy => sleep(SWITCH_PAUSE).await,
            }
        }
        bail!(
            "the tables that serve were never free for a moment in {SWITCH_ATTEMPTS} attempts; end long queries (see \
             pg_stat_activity) and start again: it goes on from here"
        )
    }
}

/// Recordings in as many as one query takes.
fn parts(recordings: &Recordings) -> Vec<Recordings> {
    let all: Vec<_> = recordings.iter().map(|(&id, &at)| (id, at)).collect();
    all.chunks(1_000).map(|part| part.iter().copied().collect()).collect()
}

/// How long a recording differs without any new fact before that is believed: longer than a batch takes from the log into
/// the tables that serve.
const SETTLE: Duration = Duration::from_secs(3);

/// How long recordings that never come to rest are waited for; they are compared when everything rests, in the switch.
const SETTLE_MAX: Duration = Duration::from_secs(20);

/// Rows that differ: how many, and the first ones.
#[derive(Debug, Default)]
struct Differences {
    listed: Vec<Difference>,
    count: u64,
}

impl Differences {
    fn of(mut all: Vec<Difference>) -> Differences {
        let count = all.len() as u64;
        all.truncate(LISTED_MAX);
        Differences { listed: all, count }
    }

    fn extend(&mut self, more: Differences) {
        self.count += more.count;
        self.listed.extend(more.listed);
        self.listed.truncate(LISTED_MAX);
    }
}

async fn archived_events(views: &Views) -> anyhow::Result<u64> {
    let checkpoints = views.checkpoints().await.context("look how far the archive is")?;
    Ok(checkpoints.iter().map(|checkpoint| checkpoint.applied).sum())
}

async fn is_empty(log: &SharedLog) -> anyhow::Result<bool> {
    for shard in (0..log.shards()).map(Shard) {
        if !log.facts(shard, 0, 1).await.context("look into the log")?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}
