//! The numbers of inference. One function per fact.

use std::time::Duration;

use metrics::{counter, histogram};

/// A segment of `audio_ms` was transcribed; the time of the model, and the highest temperature it needed.
pub fn transcribed(model: &str, audio_ms: u64, took: Duration, temperature: f32) {
    let model = model.to_owned();
    counter!("infer_segments_total", "outcome" => "transcribed").increment(1);
    counter!("infer_audio_ms_total", "model" => model.clone()).increment(audio_ms);
    histogram!("infer_segment_seconds", "model" => model).record(took.as_secs_f64());
    if temperature > 0.0 {
        counter!("infer_fallbacks_total").increment(1);
    }
}

/// A segment could not be transcribed.
pub fn failed(code: &'static str) {
    counter!("infer_segments_total", "outcome" => "failed").increment(1);
    counter!("infer_failures_total", "code" => code).increment(1);
}

/// A model was loaded in `seconds`.
pub fn loaded(model: &str, seconds: f64) {
    histogram!("infer_model_load_seconds", "model" => model.to_owned()).record(seconds);
}
