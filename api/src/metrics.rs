//! The numbers of the API. One function per fact.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};

/// Gives every number its help text.
pub fn describe() {
    describe_counter!("api_requests_total", "requests by route and status");
    describe_histogram!("api_request_seconds", "time from a request's head to its reply, by route");
    describe_counter!("api_drops_total", "drops taken in, by lane");
    describe_counter!("api_uploaded_bytes_total", "bytes of audio taken in, by lane");
    describe_counter!("api_refusals_total", "requests refused by a limit, by its code");
    describe_counter!("api_broken_uploads_total", "uploads that ended before they were whole, by reason");
}

/// A request was answered.
pub fn answered(route: &'static str, status: u16, took: Duration) {
    counter!("api_requests_total", "route" => route, "status" => status.to_string()).increment(1);
    histogram!("api_request_seconds", "route" => route).record(took.as_secs_f64());
}

/// A drop was taken in.
pub fn taken_in(lane: events::Lane, bytes: u64) {
    counter!("api_drops_total", "lane" => lane.as_str()).increment(1);
    counter!("api_uploaded_bytes_total", "lane" => lane.as_str()).increment(bytes);
}

/// A limit turned a request away.
pub fn refused(code: String) {
    counter!("api_refusals_total", "code" => code).increment(1);
}

/// An upload ended before it was whole.
pub fn broken_upload(reason: &'static str) {
    counter!("api_broken_uploads_total", "reason" => reason).increment(1);
}
