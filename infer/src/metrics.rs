//! The numbers of inference. One function per fact.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::backend::{DeviceError, Report, Sound};

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

/// So many windows of a segment were read with only the sound and a margin encoded, and so many again whole.
pub fn trimmed(kept: usize, reread: usize) {
    counter!("infer_trimmed_windows_total", "outcome" => "kept").increment(kept as u64);
    counter!("infer_trimmed_windows_total", "outcome" => "reread").increment(reread as u64);
}

/// A segment was put off because it was not sure of its language.
pub fn unsure() {
    counter!("infer_unsure_languages_total").increment(1);
}

/// A segment was put off because the one before it, whose text is its context, has not ended.
pub fn behind() {
    counter!("infer_behind_total").increment(1);
}

/// A segment was read without the text before it, because the one before it did not end in time.
pub fn out_of_order() {
    counter!("infer_out_of_order_total").increment(1);
}

/// An attempt at a segment failed, the last one where the segment `is_over`.
pub fn failed(code: &str, is_over: bool) {
    if is_over {
        counter!("infer_segments_total", "outcome" => "failed").increment(1);
    }
    counter!("infer_failures_total", "code" => code.to_owned()).increment(1);
}

/// A model was loaded in `seconds`, and takes so many bytes of its device.
pub fn loaded(model: &str, seconds: f64, report: &Report) {
    histogram!("infer_model_load_seconds", "model" => model.to_owned()).record(seconds);
    gauge!("infer_model_loaded", "model" => model.to_owned()).set(1.0);
    for (of, bytes) in [("weights", report.weight_bytes), ("state", report.state_bytes)] {
        gauge!("infer_model_bytes", "model" => model.to_owned(), "of" => of).set(bytes as f64);
    }
}

/// A model was unloaded.
pub fn unloaded(model: &str) {
    gauge!("infer_model_loaded", "model" => model.to_owned()).set(0.0);
    for of in ["weights", "state"] {
        gauge!("infer_model_bytes", "model" => model.to_owned(), "of" => of).set(0.0);
    }
}

/// The device failed.
pub fn device_failed(error: &DeviceError) {
    let how = if error.is_lost { "lost" } else { "refused" };
    counter!("infer_device_failures_total", "how" => how).increment(1);
}

/// A segment joined the batch after waiting this long for a place.
pub fn joined(waited: Duration) {
    histogram!("infer_queue_seconds").record(waited.as_secs_f64());
}

/// Windows were encoded together. What was encoded beyond the sound is padding.
pub fn encoded(sounds: &[Sound<'_>], took: Duration) {
    let positions: usize = sounds.iter().map(|sound| sound.positions).sum();
    let heard = |sound: &Sound<'_>| sound.frames.div_ceil(2).min(sound.positions);
    let padding = positions - sounds.iter().map(heard).sum::<usize>();
    counter!("infer_windows_total").increment(sounds.len() as u64);
    counter!("infer_encoded_positions_total").increment(positions as u64);
    counter!("infer_padding_positions_total").increment(padding as u64);
    histogram!("infer_encode_seconds").record(took.as_secs_f64());
}

/// The decoder ran one step of so many rows.
pub fn stepped(rows: usize, took: Duration) {
    counter!("infer_steps_total").increment(1);
    counter!("infer_rows_total").increment(rows as u64);
    histogram!("infer_step_rows").record(rows as f64);
    histogram!("infer_step_seconds").record(took.as_secs_f64());
}
