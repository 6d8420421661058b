//! Commits that are ready at the same time share a call: while one call is on its way, the next ones gather.
//!
//! A lone commit is sent at once. Each ends as if it were alone; only what a call costs is shared.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::RedisLog;
use super::reply::{self, unexpected};
use crate::keys::{self, Source};
use crate::log::{Commit, Error, Outcome};

/// At most so many commits share a call, which must not hold the server up.
const MOST: usize = 64;

/// Commits that wait for the call before them, by stream and group. Who is named here is at work.
#[derive(Default)]
pub struct Commits(Mutex<HashMap<(Source, String), Vec<Waiting>>>);

struct Waiting {
    commit: Commit,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

impl Commits {
    /// Adds a commit; tells whether somebody must be set to work for it.
    fn add(&self, key: &(Source, String), waiting: Waiting) -> bool {
        let mut queues = self.lock();
        if let Some(queue) = queues.get_mut(key) {
            queue.push(waiting);
            return false;
        }
        queues.insert(key.clone(), vec![waiting]);
        true
    }

    /// Takes what is to share the next call; `None`, and the work is over, when nothing waits.
    fn take(&self, key: &(Source, String)) -> Option<Vec<Waiting>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(key)?;
        if queue.is_empty() {
            queues.remove(key);
            return None;
        }
        let rest = queue.split_off(queue.len().min(MOST));
        Some(std::mem::replace(queue, rest))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Source, String), Vec<Waiting>>> {
        // The map is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who sends the commits of one stream and group until none waits.
struct AtWork {
    log: RedisLog,
    key: (Source, String),
    /// Whether the queue is somebody else's by now, or nobody's.
    over: bool,
}

impl Drop for AtWork {
    /// Takes the queue away if the work ends before it is done, with its runtime: those who wait hear of it.
    fn drop(&mut self) {
        if !self.over {
            self.log.commits.lock().remove(&self.key);
        }
    }
}

impl RedisLog {
    pub(super) async fn commit(&self, commit: &Commit) -> Result<Outcome, Error> {
        let key = (commit.source, commit.group.clone());
        let (answer, answered) = oneshot::channel();
        if self.commits.add(&key, Waiting { commit: commit.clone(), answer }) {
            tokio::spawn(AtWork { log: self.clone(), key, over: false }.work());
        }
        let gone = |_| Error::Unavailable { action: "commit", source: "the program is ending".into() };
        answered.await.map_err(gone)?
    }

    async fn commit_together(&self, commits: &[&Commit]) -> Result<Vec<Outcome>, Error> {
        let Some(first) = commits.first() else { return Ok(Vec::new()) };
        let source = first.source;
        let mut invocation = self.scripts.commit.prepare_invoke();
        invocation.key(source.key()).key(source.attempts(&first.group)).key(source.counter());
        match source.shard() {
            Some(shard) => invocation.key(Source::Log(shard).key()).key(keys::seq(shard)),
            // A drop has neither log nor seq; these names keep the script's keys in its slot.
            None => invocation.key("{vf:ingest}:log").key("{vf:ingest}:seq"),
        };
        invocation.key(source.dead());
        invocation.arg(&first.group).arg(u8::from(source.deletes_done()));
        // Nobody counts drops, and their fields may say anything.
        invocation.arg(u8::from(source.deletes_done() && source.shard().is_some())).arg(commits.len());
        for commit in commits {
            push(&mut invocation, commit);
        }
        let words: Vec<String> = self.script("commit", &invocation).await?;
        let outcomes: Option<Vec<Outcome>> = words.iter().map(|word| reply::outcome_of(word)).collect();
        outcomes
            .filter(|outcomes| outcomes.len() == commits.len())
            .ok_or_else(|| unexpected("commit", &words.join(" ")))
    }
}

impl AtWork {
    async fn work(mut self) {
        while let Some(waiting) = self.log.commits.take(&self.key) {
            let commits: Vec<&Commit> = waiting.iter().map(|waiting| &waiting.commit).collect();
            let together = self.log.commit_together(&commits).await;
            let mut outcomes = Vec::with_capacity(commits.len());
            match together {
                Ok(together) => outcomes.extend(together.into_iter().map(Ok)),
                Err(error) if commits.len() == 1 => outcomes.push(Err(error)),
                // One of them may be at fault: each hears its own answer. Those that were done hear `Lost`.
                Err(_) => {
                    for commit in commits {
                        let alone = self.log.commit_together(&[commit]).await;
                        outcomes.push(alone.map(|outcomes| outcomes[0]));
                    }
                }
            }
            for (waiting, outcome) in waiting.into_iter().zip(outcomes) {
                // Who does not listen any more went away on its own.
                let _ = waiting.answer.send(outcome);
            }
        }
        self.over = true;
    }
}

/// Adds the keys and arguments of one commit.
fn push(invocation: &mut redis::ScriptInvocation<'_>, commit: &Commit) {
    let Commit { source, facts, outputs, delete, .. } = commit;
    let shard = source.shard().unwrap_or_default();
    let lapse = commit.lapse.as_ref().zip(commit.recording);
    let mark = match commit.recording {
        Some(recording) => keys::deleted(shard, recording),
        None => format!("{}:none", source.dead()),
    };
    invocation.key(&mark);
    match (commit.recording, commit.generation) {
        (Some(recording), Some(generation)) => invocation.key(keys::cancelled(shard, recording, generation)),
        _ => invocation.key(&mark),
    };
    match lapse {
        Some((claim, _)) => invocation.key(keys::claim(shard, &claim.to_hex())),
        None => invocation.key(&mark),
    };
    for (queue, _) in outputs {
        invocation.key(queue.key()).key(queue.counter());
    }
    for key in delete {
        invocation.key(key);
    }

    let letter = commit.dead.as_ref().map(|letter| letter.fields(*source, &commit.id));
    let letter = letter.as_ref().map_or(&[][..], |fields| fields);
    invocation.arg(&commit.id).arg(&commit.identity).arg(facts.len()).arg(outputs.len());
    invocation.arg(letter.len() * 2).arg(delete.len());
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
}
