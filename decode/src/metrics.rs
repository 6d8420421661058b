//! The numbers of decode. One function per fact.

use metrics::{counter, histogram};

use crate::Summary;

/// A recording was decoded to its end, in `seconds`; `work` of them without waiting for anybody to take its segments.
pub fn decoded(summary: &Summary, seconds: f64, work: f64) {
    let audio_seconds = summary.audio_ms as f64 / 1000.0;
    counter!("decode_recordings_total", "outcome" => "decoded").increment(1);
    counter!("decode_audio_seconds_total").increment(audio_seconds as u64);
    counter!("decode_speech_seconds_total").increment(summary.speech_ms / 1000);
    counter!("decode_damaged_packets_total").increment(summary.damaged_packets);
    histogram!("decode_recording_seconds").record(seconds);
    histogram!("decode_work_seconds").record(work);
    if summary.truncated_at_ms.is_some() {
        counter!("decode_truncated_total").increment(1);
    }
}

/// A recording could not be decoded.
pub fn failed(code: &'static str) {
    counter!("decode_recordings_total", "outcome" => "failed").increment(1);
    counter!("decode_failures_total", "code" => code).increment(1);
}

/// A segment went to inference.
pub fn emitted(ms: u64) {
    counter!("decode_segments_total").increment(1);
    counter!("decode_emitted_ms_total").increment(ms);
}
