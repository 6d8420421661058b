//! The numbers of ingest. One function per fact.

use metrics::{counter, describe_counter, describe_histogram, histogram};

/// Names the metrics and their units, once at start.
pub fn describe() {
    describe_counter!(
        "ingest_drops_total",
        "drops ended, by outcome: admitted, duplicate, repeated, rejected"
    );
    describe_counter!("ingest_rejections_total", "drops rejected, by the code of the cause");
    describe_counter!("ingest_waits_total", "times a drop was put off, by what it waits for");
    describe_counter!("ingest_admitted_bytes_total", "bytes of audio admitted");
    describe_counter!("ingest_admitted_ms_total", "milliseconds of audio admitted, as estimated");
    describe_counter!("ingest_fetched_bytes_total", "bytes fetched from outside, by scheme of the uri");
    describe_histogram!("ingest_drop_seconds", "time from reading a drop to its end");
}

/// A drop ended well after `seconds`.
pub fn took_in(outcome: &'static str, seconds: f64) {
    counter!("ingest_drops_total", "outcome" => outcome).increment(1);
    histogram!("ingest_drop_seconds").record(seconds);
}

/// A recording was admitted.
pub fn admitted(bytes: u64, estimated_ms: u64) {
    counter!("ingest_admitted_bytes_total").increment(bytes);
    counter!("ingest_admitted_ms_total").increment(estimated_ms);
}

/// A drop was rejected.
pub fn rejected(code: &str) {
    counter!("ingest_drops_total", "outcome" => "rejected").increment(1);
    counter!("ingest_rejections_total", "code" => code.to_owned()).increment(1);
}

/// A drop waits for what is not its fault.
pub fn put_off(code: &str) {
    counter!("ingest_waits_total", "code" => code.to_owned()).increment(1);
}

/// Audio was fetched from outside.
pub fn fetched(scheme: &'static str, bytes: u64) {
    counter!("ingest_fetched_bytes_total", "scheme" => scheme).increment(bytes);
}
