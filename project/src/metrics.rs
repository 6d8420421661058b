//! The numbers of the projection and the chores. One function per fact.

use events::Shard;
use jiff::Timestamp;
use metrics::{counter, gauge, histogram};
use streams::{DeadPlace, Survey};
use views::Applied;

/// A batch was committed in `seconds`.
pub fn applied(applied: &Applied, seconds: f64) {
    counter!("project_events_total", "kind" => "fresh").increment(applied.fresh as u64);
    counter!("project_events_total", "kind" => "repeated").increment(applied.repeated as u64);
    counter!("project_seq_conflicts_total").increment(applied.conflicts.len() as u64);
    histogram!("project_batch_seconds").record(seconds);
}

/// A batch must be tried again because the database could not take it.
pub fn retried() {
    counter!("project_retries_total").increment(1);
}

/// An event can not be applied at all.
pub fn refused() {
    counter!("project_refused_total").increment(1);
}

/// A chore ran, or failed.
pub fn chore(name: &'static str, ok: bool) {
    counter!("keeper_chores_total", "chore" => name, "outcome" => if ok { "done" } else { "failed" })
        .increment(1);
}

/// Drops were handed in again, finished drops forgotten, and so many wait.
pub fn swept(again: u64, finished: u64, waiting: u64) {
    counter!("keeper_drops_handed_in_again_total").increment(again);
    counter!("keeper_drops_finished_total").increment(finished);
    gauge!("keeper_drops_waiting").set(waiting as f64);
}

/// Transcriptions whose work Redis had lost were begun again or ended.
pub fn strays(ended: u64) {
    counter!("keeper_strays_total").increment(ended);
}

/// A deleted recording was erased everywhere.
pub fn erased() {
    counter!("keeper_erased_total").increment(1);
}

/// So many deleted recordings are not erased yet.
pub fn erasures_open(open: u64) {
    gauge!("keeper_erasures_open").set(open as f64);
}

/// Things were older than they are kept.
pub fn expired(what: &'static str, things: u64) {
    counter!("keeper_expired_total", "what" => what).increment(things);
}

/// Identities of facts were forgotten that no log gives again.
pub fn forgotten(facts: u64) {
    counter!("keeper_forgotten_total").increment(facts);
}

/// How queues, logs and dead letters stand; `archived` tells up to which seq each shard's log is in the archive.
pub fn surveyed(survey: &Survey, archived: &[(Shard, u64)], now: Timestamp) {
    for total in survey.totals() {
        let (queue, lane) = (total.queue.as_str(), total.lane.as_str());
        let labels = [("queue", queue), ("lane", lane)];
        gauge!("queue_entries", &labels).set(total.backlog.entries as f64);
        gauge!("queue_in_progress", &labels).set(total.in_progress as f64);
        gauge!("queue_audio_seconds", &labels).set(total.backlog.audio_ms as f64 / 1000.0);
        gauge!("queue_speech_bytes", &labels).set(total.backlog.bytes as f64);
        let waits = total.oldest_at.map_or(0, |at| (now.as_millisecond() - at.as_millisecond()).max(0));
        gauge!("queue_oldest_seconds", &labels).set(waits as f64 / 1000.0);
        counter!("queue_done_total", &labels).absolute(total.done);
    }
    for log in &survey.logs {
        let shard = log.shard.to_string();
        gauge!("log_facts", "shard" => shard.clone()).set(log.length as f64);
        gauge!("log_last_seq", "shard" => shard.clone()).set(log.last_seq as f64);
        for group in &log.groups {
            gauge!("log_unread_facts", "shard" => shard.clone(), "group" => group.name.clone())
                .set((group.unread + group.pending) as f64);
        }
    }
    for (shard, seq) in archived {
        gauge!("log_archived_seq", "shard" => shard.to_string()).set(*seq as f64);
    }
    for (place, letters) in &survey.dead {
        let place = match place {
            DeadPlace::Drops => "drops".to_owned(),
            DeadPlace::Shard(shard) => shard.to_string(),
        };
        gauge!("dead_letters", "place" => place).set(*letters as f64);
    }
    gauge!("redis_memory_bytes").set(survey.memory_bytes as f64);
}

/// Facts were trimmed.
pub fn trimmed(facts: u64) {
    counter!("keeper_trimmed_facts_total").increment(facts);
}

/// So many logs could not be trimmed as far as the archive reaches, because a group is behind.
pub fn held_back(logs: u64) {
    gauge!("keeper_logs_held_back").set(logs as f64);
}

/// Facts are gone from a log that were never archived.
pub fn lost_facts(facts: u64) {
    counter!("keeper_lost_facts_total").increment(facts);
}

/// A log gives numbers again that are archived.
pub fn went_back() {
    counter!("keeper_logs_went_back_total").increment(1);
}

/// A run requested a generation of so much audio.
pub fn requested(audio_ms: u64) {
    counter!("keeper_generations_requested_total").increment(1);
    counter!("keeper_generations_requested_audio_ms_total").increment(audio_ms);
}

/// A run skipped a recording.
pub fn skipped(reason: &'static str) {
    counter!("keeper_generations_skipped_total", "reason" => reason).increment(1);
}
