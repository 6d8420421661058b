//! The numbers of the projection and the chores. One function per fact.

use metrics::{counter, gauge, histogram};
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
