//! Workloads that are read in rounds, the engines in turn: first, second, third, first again.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::clips::Clip;
use super::process::Process;
use super::statistics::median;
use super::subject::{Decoding, Places, Subject, is_ours};
use crate::{demo::words, say};

/// What one engine made of a workload.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub name: String,
    /// Its settings in words.
    pub settings: String,
    /// Seconds of each round: the median over clips that came one by one, or until all that came at once were read.
    pub seconds: Vec<f64>,
    /// Seconds that each round took in all.
    pub busy: Vec<f64>,
    /// Seconds of each round in which its threads stood ready and got no processor, all threads together.
    #[serde(default)]
    pub waited: Vec<f64>,
    /// Word errors of each clip.
    pub errors: Vec<usize>,
    /// Seconds from the start of the program to a loaded model, and of loading the model alone.
    pub start_up: f64,
    pub load: f64,
    /// The most memory it held, MiB.
    pub memory: f64,
    /// Why there are no figures, where there are none.
    pub failure: Option<String>,
}

/// Clips and how they come.
pub struct Workload {
    pub clips: Vec<Clip>,
    /// All at once, or each when the one before was read.
    pub at_once: bool,
}

/// Measures all engines, each in a fresh process that has read one clip before. An engine of ours that cannot do as
/// asked says why in its outcome; a rival has to.
pub fn measure(
    subjects: &[Subject],
    places: &Places,
    model: &str,
    decoding: Decoding,
    workload: &Workload,
    rounds: usize,
) -> Result<Vec<Outcome>> {
    let mut running = Vec::new();
    let mut outcomes = Vec::new();
    for subject in subjects {
        let mut outcome =
            Outcome { name: subject.name.into(), settings: subject.described(), ..Outcome::default() };
        let mut process = subject.start(places, model, decoding)?;
        (outcome.start_up, outcome.load) = (process.start_up, process.load);
        let warm = read_all(&mut process, &workload.clips[..1]);
        match warm {
            Ok(_) => running.push(Some(process)),
            Err(error) if is_ours(subject.name) => {
                say::note(format_args!("{}: {error:#}", subject.name));
                outcome.failure = Some(format!("{error:#}"));
                running.push(None);
            }
            Err(error) => return Err(error.context(format!("try {}", subject.name))),
        }
        outcomes.push(outcome);
    }
    for round in 0..rounds {
        for (process, outcome) in running.iter_mut().zip(&mut outcomes) {
            let Some(process) = process else { continue };
            let before = process.waited();
            let texts =
                read(process, workload, outcome).with_context(|| format!("measure {}", outcome.name))?;
            outcome.waited.push(process.waited() - before);
            if round == 0 {
                let pairs = workload.clips.iter().zip(&texts);
                outcome.errors = pairs.map(|(clip, text)| words::errors(&clip.text, text)).collect();
                outcome.memory = process.peak_memory()?;
            }
            let (seconds, errors) = (outcome.seconds[round], outcome.errors.iter().sum::<usize>());
            say::note(format_args!(
                "round {}: {}: {seconds:.3} s, {errors} word errors, waited {:.2} s for a processor",
                round + 1,
                outcome.name,
                outcome.waited[round]
            ));
        }
    }
    Ok(outcomes)
}

/// Reads the workload once and adds the round to the outcome. Returns the texts.
fn read(process: &mut Process, workload: &Workload, outcome: &mut Outcome) -> Result<Vec<String>> {
    if workload.at_once {
        let (seconds, texts) = read_all(process, &workload.clips)?;
        outcome.seconds.push(seconds);
        outcome.busy.push(seconds);
        return Ok(texts);
    }
    let (mut seconds, mut texts) = (Vec::new(), Vec::new());
    for clip in &workload.clips {
        let (took, text) = read_all(process, std::slice::from_ref(clip))?;
        seconds.push(took);
        texts.extend(text);
    }
    outcome.seconds.push(median(&seconds));
    outcome.busy.push(seconds.iter().sum());
    Ok(texts)
}

/// Hands in all clips at once; returns the seconds until the last was read, and the texts.
pub fn read_all(process: &mut Process, clips: &[Clip]) -> Result<(f64, Vec<String>)> {
    let begun = Instant::now();
    for (id, clip) in clips.iter().enumerate() {
        process.submit(id, clip)?;
    }
    let mut texts = vec![String::new(); clips.len()];
    let mut last = begun;
    for _ in clips {
        let answer = process.wait()?;
        last = last.max(answer.at);
        *texts.get_mut(answer.id).context("find the clip of an answer")? = answer.text;
    }
    Ok(((last - begun).as_secs_f64(), texts))
}
