//! Everything that ever happened in a shard, in order: the archive, and then the log.
//!
//! The archive is read up to the highest seq below which nothing is missing; what comes after it stands in the log, which
//! is trimmed only below that seq. As the archive grows, what was given from the log comes up there, is known by its
//! event id, and is not given again.

use std::collections::HashMap;

use events::{EventId, RecordingId, Shard};
use streams::SharedLog;
use tokio::task::JoinHandle;
use views::archive::Stretch;
use views::{Entry, EntryError, Views};

/// The facts of one shard, oldest first.
pub struct History {
    views: Views,
    log: SharedLog,
    shard: Shard,
    /// Everything archived up to this seq was given.
    archived: u64,
    /// The archive is known to be whole up to this seq.
    whole: u64,
    /// The log was given up to this seq.
    logged: u64,
    /// What was given from the log and has not come up in the archive yet.
    ahead: HashMap<EventId, Ahead>,
    /// What comes next in the archive, on its way.
    next: Option<Page>,
}

/// What is remembered of a fact that was given from the log: a rebuild may be far ahead of the archive.
struct Ahead {
    seq: u64,
    recording: RecordingId,
}

/// A page of the archive that is being read.
struct Page {
    after: u64,
    through: u64,
    stretch: Stretch,
    entries: JoinHandle<Result<Vec<Entry>, views::Error>>,
}

/// Some facts of a shard, in order of seq.
#[derive(Debug)]
pub struct Facts {
    /// The facts; none where the archive has only repeats.
    pub entries: Vec<Entry>,
    /// Everything archived up to this seq was given, with these: a later [`History`] may begin after it.
    pub archived: u64,
    /// Where they were read.
    pub origin: Origin,
}

/// Where facts were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The archive, for good.
    Archive,
    /// The log: a failover may still take them back.
    Log,
}

/// Where archive and log ended at some moment: each goes on growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The highest seq below which the archive misses nothing.
    pub archive: u64,
    /// The newest seq in the log.
    pub log: u64,
}

/// What ends or holds up the reading.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The database, or an event in the archive.
    #[error(transparent)]
    Views(#[from] views::Error),
    /// The log.
    #[error(transparent)]
    Log(#[from] streams::Error),
    /// A fact in the log that cannot be read. The project stage sends such to the dead letters, and then it is passed.
    #[error("the fact in the log of shard {shard} at seq {seq}: {source}")]
    Fact {
        /// The shard.
        shard: Shard,
        /// Its place.
        seq: u64,
        /// Why.
        source: EntryError,
    },
}

impl HistoryError {
    /// Says whether reading on later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            HistoryError::Views(error) => error.is_transient(),
            HistoryError::Log(error) => error.is_transient(),
            HistoryError::Fact { .. } => true,
        }
    }
}

impl History {
    /// Begins after seq `archived` of the archive.
    pub fn new(views: Views, log: SharedLog, shard: Shard, archived: u64) -> History {
        let ahead = HashMap::new();
        History { views, log, shard, archived, whole: archived, logged: 0, ahead, next: None }
    }

    /// The shard.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Everything archived up to this seq was given.
    pub fn archived(&self) -> u64 {
        self.archived
    }

    /// The recordings of what was given from the log and is not known to be archived yet: one for each fact.
    pub fn ahead(&self) -> impl Iterator<Item = RecordingId> {
        self.ahead.values().map(|ahead| ahead.recording)
    }

    /// Looks where archive and log end just now.
    ///
    /// # Errors
    /// What the database or the log says.
    pub async fn ends(&self) -> Result<Ends, HistoryError> {
        Ok(Ends {
            archive: self.views.archived_through(self.shard).await?,
            log: self.log.last_seq(self.shard).await?,
        })
    }

    /// Says whether everything up to there was given.
    pub fn has_reached(&self, ends: Ends) -> bool {
        self.archived >= ends.archive && self.archived.max(self.logged) >= ends.log
    }

    /// Returns the next facts, `count` at most unless a log was rolled back; `None` when there are no more just now.
    ///
    /// # Errors
    /// After one, the same call goes on where it was.
    pub async fn next(&mut self, count: usize) -> Result<Option<Facts>, HistoryError> {
        loop {
            if self.archived < self.whole {
                return Ok(Some(self.next_archived(count as u64).await?));
            }
            self.whole = self.views.archived_through(self.shard).await?;
            if self.archived < self.whole {
                continue;
            }
            let after = self.archived.max(self.logged);
            let facts = self.log.facts(self.shard, after, count).await?;
            let Some(first) = facts.first() else { return Ok(None) };
            // Before the first one, facts may have been archived and trimmed since we asked.
            if seq(first) > after + 1 && self.views.archived_through(self.shard).await? > self.whole {
                continue;
            }
            return self.next_logged(facts).await.map(Some);
        }
    }

    async fn next_archived(&mut self, count: u64) -> Result<Facts, HistoryError> {
        let page = match self.next.take() {
            Some(page) if page.after == self.archived => page,
            _ => self.read_ahead(self.archived, count, None).await?,
        };
        let entries = match page.entries.await {
            Ok(entries) => entries?,
            Err(error) => return Err(views::Error::Task(error.to_string()).into()),
        };
        if page.through < self.whole {
            self.next = Some(self.read_ahead(page.through, count, Some(page.stretch)).await?);
        }
        self.archived = page.through;
        let mut entries = entries;
        entries.retain(|entry| self.ahead.remove(&entry.event_id()).is_none());
        // What the archive passed without having it was refused, or a failover took it back.
        self.ahead.retain(|_, ahead| ahead.seq > self.archived);
        Ok(Facts { entries, archived: self.archived, origin: Origin::Archive })
    }

    /// Has a page read while the one before it is used.
    async fn read_ahead(
        &self,
        after: u64,
        count: u64,
        stretch: Option<Stretch>,
    ) -> Result<Page, views::Error> {
        let stretch = match stretch {
            Some(stretch) if stretch.through > after => stretch,
            _ => self.views.archive(self.shard, after, self.whole).await?,
        };
        let through = stretch.through.min(after + count.max(1));
        let (views, of) = (self.views.clone(), stretch.clone());
        let entries = tokio::spawn(async move { views.archived(&of, after, through).await });
        Ok(Page { after, through, stretch, entries })
    }

    async fn next_logged(&mut self, facts: Vec<streams::Entry>) -> Result<Facts, HistoryError> {
        let mut entries = Vec::with_capacity(facts.len());
        let mut logged = self.logged;
        for fact in &facts {
            let seq = seq(fact);
            let json = fact.field("event").map_or(&[][..], |json| json);
            match Entry::read(self.shard, seq, json) {
                Ok(entry) => entries.push(entry),
                // What comes before it is given first.
                Err(_) if !entries.is_empty() => break,
                Err(source) => return Err(HistoryError::Fact { shard: self.shard, seq, source }),
            }
            logged = seq;
        }
        // A failover may have had the same event appended twice, and its work done twice: what was folded counts.
        let ids: Vec<EventId> = entries.iter().map(Entry::event_id).collect();
        let mut copies = self.views.archived_copies(&ids).await?;
        let mut new = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = entry.event_id();
            let copy = copies.remove(&id);
            let was_given = copy.as_ref().is_some_and(|copy| copy.seq <= self.archived);
            if !was_given && !self.ahead.contains_key(&id) {
                let entry = copy.and_then(|copy| copy.entry).unwrap_or(entry);
                self.ahead.insert(id, Ahead { seq: entry.seq(), recording: entry.recording() });
                new.push(entry);
            }
        }
        let entries = new;
        self.logged = logged;
        Ok(Facts { entries, archived: self.archived, origin: Origin::Log })
    }
}

/// The place of a fact in its shard's log.
fn seq(fact: &streams::Entry) -> u64 {
    fact.text("seq").and_then(|seq| seq.parse().ok()).unwrap_or(u64::MAX)
}
