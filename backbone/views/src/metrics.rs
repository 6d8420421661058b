//! The numbers of this room.

use std::time::Duration;

use metrics::{counter, histogram};

/// A batch was applied: `views_events_applied_total`, `views_events_repeated_total`, `views_apply_seconds`.
pub(crate) fn record_applied(fresh: usize, repeated: usize, took: Duration) {
    counter!("views_events_applied_total").increment(fresh as u64);
    counter!("views_events_repeated_total").increment(repeated as u64);
    histogram!("views_apply_seconds").record(took.as_secs_f64());
}

/// A batch was not applied: `views_apply_errors_total`.
pub(crate) fn record_apply_error(transient: bool) {
    let kind = if transient { "retry" } else { "fatal" };
    counter!("views_apply_errors_total", "kind" => kind).increment(1);
}
