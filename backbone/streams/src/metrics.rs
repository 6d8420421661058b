//! The numbers every stage shows about its streams. One function per fact.

use metrics::{counter, gauge, histogram};

use crate::log::Outcome;

/// A call to Redis failed and is tried again.
pub fn redis_retried(action: &'static str) {
    counter!("streams_redis_retries_total", "action" => action).increment(1);
}

/// Entries were taken, new (`taken`), from silent workers or due retries (`claimed`), or from own history (`history`).
pub fn delivered(stage: &'static str, how: &'static str, entries: usize) {
    counter!("streams_deliveries_total", "stage" => stage, "how" => how).increment(entries as u64);
}

/// An entry ended.
pub fn committed(stage: &'static str, outcome: Outcome, seconds: f64) {
    let outcome = match outcome {
        Outcome::Done => "done",
        Outcome::Lost => "lost",
        Outcome::Gone => "gone",
        Outcome::Mismatch => "mismatch",
        Outcome::Deleted => "deleted",
        Outcome::Cancelled => "cancelled",
    };
    counter!("streams_commits_total", "stage" => stage, "outcome" => outcome).increment(1);
    histogram!("streams_delivery_seconds", "stage" => stage).record(seconds);
}

/// An entry went to the dead letters.
pub fn died(stage: &'static str, code: &str) {
    counter!("streams_dead_letters_total", "stage" => stage, "code" => code.to_owned()).increment(1);
}

/// An entry was put off.
pub fn put_off(stage: &'static str) {
    counter!("streams_retries_total", "stage" => stage).increment(1);
}

/// Pending entries were found whose data is gone: work was lost outside our doing.
pub fn data_gone(stage: &'static str, entries: usize) {
    counter!("streams_lost_entries_total", "stage" => stage).increment(entries as u64);
}

/// An event of a type or version this release does not know was met.
pub fn not_understood(stage: &'static str, why: &'static str) {
    counter!("streams_events_not_understood_total", "stage" => stage, "why" => why).increment(1);
}

/// The number of entries in hand.
pub fn in_hand(stage: &'static str, entries: usize) {
    gauge!("streams_in_hand", "stage" => stage).set(entries as f64);
}

/// Whether a lane is paused because those downstream are behind.
pub fn paused(stage: &'static str, lane: &'static str, paused: bool) {
    gauge!("streams_paused", "stage" => stage, "lane" => lane).set(f64::from(u8::from(paused)));
}
