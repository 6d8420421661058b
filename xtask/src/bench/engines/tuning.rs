//! The settings with which each rival is quickest here: a few clips with each candidate, before anything is measured.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clips::Clip;
use super::ggml::Precision;
use super::rounds::read_all;
use super::subject::{Decoding, FASTER_WHISPER, Places, Subject, THREADS, WHISPER_CPP};
use crate::say;

/// The quickest settings of the rivals with one model.
pub struct Tuned {
    /// whisper.cpp for one clip at a time.
    pub whisper_cpp_alone: Subject,
    /// For many clips at once.
    pub whisper_cpp_many: Subject,
    pub faster_whisper_many: Subject,
    /// Windows of one long recording that faster-whisper reads together.
    pub batch: u64,
    /// What was tried, with seconds.
    pub tried: Vec<(String, f64)>,
}

/// What is kept of it.
#[derive(Serialize, Deserialize)]
struct Kept {
    whisper_cpp_alone: Value,
    whisper_cpp_many: Value,
    faster_whisper_many: Value,
    batch: u64,
    tried: Vec<(String, f64)>,
}

/// The quickest settings, as found before and kept in `file`, or found now and kept.
pub fn tune_once(file: &Path, tune: impl FnOnce() -> Result<Tuned>) -> Result<Tuned> {
    let named = |name, settings: &Value| Subject { name, settings: settings.clone() };
    if let Some(kept) = std::fs::read(file).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok()) {
        say::note(format_args!("as kept in {}", file.display()));
        return Ok(Tuned {
            whisper_cpp_alone: named(WHISPER_CPP, &kept.whisper_cpp_alone),
            whisper_cpp_many: named(WHISPER_CPP, &kept.whisper_cpp_many),
            faster_whisper_many: named(FASTER_WHISPER, &kept.faster_whisper_many),
            batch: kept.batch,
            tried: kept.tried,
        });
    }
    let tuned = tune()?;
    let kept = Kept {
        whisper_cpp_alone: tuned.whisper_cpp_alone.settings.clone(),
        whisper_cpp_many: tuned.whisper_cpp_many.settings.clone(),
        faster_whisper_many: tuned.faster_whisper_many.settings.clone(),
        batch: tuned.batch,
        tried: tuned.tried.clone(),
    };
    std::fs::write(file, serde_json::to_string(&kept)?)
        .with_context(|| format!("write {}", file.display()))?;
    Ok(tuned)
}

/// Tries the candidates, greedily.
pub fn tune(places: &Places, model: &str, short: &[Clip], mixed: &[Clip]) -> Result<Tuned> {
    let mut tried = Vec::new();
    let mut quickest = |clips: &[Clip], at_once: bool, candidates: Vec<Subject>| -> Result<Subject> {
        let mut best: Option<(f64, Subject)> = None;
        for subject in candidates {
            let seconds = time(&subject, places, model, clips, at_once)?;
            let how = if at_once { "at once" } else { "one by one" };
            let what = format!("{}, {}: {} clips {how}", subject.name, subject.described(), clips.len());
            say::note(format_args!("{what}: {seconds:.2} s"));
            tried.push((what, seconds));
            if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
                best = Some((seconds, subject));
            }
        }
        Ok(best.context("there are no candidates")?.1)
    };
    let whisper_cpp = [Precision::F16, Precision::Q8].into_iter().flat_map(|precision| {
        [true, false]
            .map(|flash| Subject::plain(WHISPER_CPP).with("precision", precision.name()).with("flash", flash))
    });
    let whisper_cpp_alone = quickest(short, false, whisper_cpp.collect())?;
    let one_each = |subject: &Subject| subject.clone().with("threads", 1).with("workers", THREADS);
    let candidates = vec![whisper_cpp_alone.clone(), one_each(&whisper_cpp_alone)];
    let whisper_cpp_many = quickest(mixed, true, candidates)?;
    let plain = Subject::plain(FASTER_WHISPER);
    let batched = [4u64, 8, 16].map(|batch| plain.clone().with("batch", batch));
    let batched = quickest(mixed, true, batched.to_vec())?;
    let batch = batched.settings["batch"].as_u64().unwrap_or(8);
    let two = one_each(&plain);
    let candidates = vec![batched, plain, two.clone(), two.with("batch", 4)];
    let faster_whisper_many = quickest(mixed, true, candidates)?;
    Ok(Tuned { whisper_cpp_alone, whisper_cpp_many, faster_whisper_many, batch, tried })
}

fn time(subject: &Subject, places: &Places, model: &str, clips: &[Clip], at_once: bool) -> Result<f64> {
    // As the workloads do: one by one they are single sentences.
    let decoding = Decoding { beam: 1, timestamps: at_once };
    let mut process = subject.start(places, model, decoding)?;
    read_all(&mut process, &clips[..1])?;
    let begun = Instant::now();
    for part in clips.chunks(if at_once { clips.len() } else { 1 }) {
        read_all(&mut process, part)?;
    }
    Ok(begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_once() {
        let file = std::env::temp_dir().join(format!("voiceforge-tuned-{}.json", std::process::id()));
        let found = || {
            let many = Subject::plain(FASTER_WHISPER).with("batch", 16);
            let cpp = Subject::plain(WHISPER_CPP);
            let tried = vec![("this".to_owned(), 1.0)];
            Ok(Tuned {
                whisper_cpp_alone: cpp.clone(),
                whisper_cpp_many: cpp,
                faster_whisper_many: many,
                batch: 4,
                tried,
            })
        };
        let first = tune_once(&file, found).unwrap();
        let again = tune_once(&file, || anyhow::bail!("looked for again")).unwrap();
        assert_eq!(again.faster_whisper_many, first.faster_whisper_many);
        assert_eq!(
            (again.whisper_cpp_alone, again.batch, again.tried),
            (first.whisper_cpp_alone, 4, first.tried)
        );
        std::fs::remove_file(&file).unwrap();
    }
}
