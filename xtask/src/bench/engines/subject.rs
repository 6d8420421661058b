//! The engines that are compared, each with the settings that suit a workload best.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::ggml::Precision;
use super::process::Process;

/// Threads that an engine computes with, all workers together.
pub const THREADS: usize = 2;

pub const OURS: &str = "this engine";
pub const OURS_TRIMMED: &str = "this engine, trimmed";
pub const FASTER_WHISPER: &str = "faster-whisper";
pub const FASTER_WHISPER_BATCHED: &str = "faster-whisper, batched";
pub const WHISPER_CPP: &str = "whisper.cpp";
pub const WHISPER_CPP_TRIMMED: &str = "whisper.cpp, trimmed";

/// Where programs and weights are.
pub struct Places {
    /// This engine's example.
    pub program: PathBuf,
    pub python: PathBuf,
    /// The script that drives rivals.
    pub script: PathBuf,
    /// Folder of models.
    pub models: PathBuf,
    /// Folder of whisper.cpp's files.
    pub ggml: PathBuf,
    /// Whether engines run before everything else on the machine.
    pub realtime: bool,
}

impl Places {
    /// The file of a model that whisper.cpp loads.
    pub fn ggml(&self, model: &str, precision: &str) -> PathBuf {
        self.ggml.join(format!("{model}-{precision}.bin"))
    }
}

/// How all engines decode a workload.
#[derive(Debug, Clone, Copy)]
pub struct Decoding {
    /// Beams; 1 is greedy.
    pub beam: usize,
    /// Whether the model times its text. Without, it is quicker and hears single sentences as well, but leaves out
    /// some of those that follow one another.
    pub timestamps: bool,
}

/// One engine with its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub name: &'static str,
    pub settings: Value,
}

impl Subject {
    /// An engine with one worker on all threads.
    pub fn plain(name: &'static str) -> Subject {
        let settings = json!({"threads": THREADS, "workers": 1});
        let mut subject = Subject { name, settings };
        if name == WHISPER_CPP || name == WHISPER_CPP_TRIMMED {
            subject = subject.with("flash", true).with("precision", Precision::F16.name());
        }
        subject.named(name)
    }

    /// The same settings under another name.
    pub fn named(mut self, name: &'static str) -> Subject {
        self.name = name;
        let trim = is_trimmed(name);
        if trim { self.with("trim", true) } else { self }
    }

    pub fn with(mut self, setting: &str, value: impl Into<Value>) -> Subject {
        self.settings[setting] = value.into();
        self
    }

    /// Starts it with a model.
    pub fn start(&self, places: &Places, model: &str, decoding: Decoding) -> Result<Process> {
        let mut settings = self.settings.clone();
        settings["beam"] = decoding.beam.into();
        let folder = places.models.join(model);
        let mut words: Vec<PathBuf> = Vec::new();
        if places.realtime {
            // Round robin, not first in first out: engines wait for their own threads by spinning, and of two that do so
            // in front of each other neither would ever give way.
            words.extend(["chrt", "-r", "5"].map(PathBuf::from));
        }
        match self.name {
            OURS | OURS_TRIMMED => words.extend([places.program.clone(), folder]),
            FASTER_WHISPER | FASTER_WHISPER_BATCHED => {
                words.extend([places.python.clone(), places.script.clone(), FASTER_WHISPER.into(), folder]);
            }
            _ => {
                let file = places.ggml(model, settings["precision"].as_str().unwrap_or_default());
                words.extend([places.python.clone(), places.script.clone(), WHISPER_CPP.into(), file]);
            }
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(settings.to_string());
        Process::start(
            &mut command,
            json!({"beam": decoding.beam, "timestamps": decoding.timestamps, "language": "en", "trim": is_trimmed(self.name)}),
        )
    }

    /// Its settings in words.
    pub fn described(&self) -> String {
        let number = |name: &str| self.settings[name].as_u64().unwrap_or(0);
        let mut words = match number("workers") {
            0 | 1 => format!("{} threads", number("threads")),
            workers => format!("{workers} workers of {} thread", number("threads")),
        };
        if let Some(precision) = self.settings["precision"].as_str() {
            let flash = if self.settings["flash"] == true { "with" } else { "without" };
            words = format!("{precision}, {flash} flash attention, {words}");
        } else if !is_ours(self.name) {
            words = format!("int8, {words}");
        }
        match number("batch") {
            0 => words,
            batch => format!("{words}, batches of {batch}"),
        }
    }
}

/// Whether a row is this project's.
pub fn is_ours(name: &str) -> bool {
    name == OURS || name == OURS_TRIMMED
}

/// Whether an engine encodes no more than the clip and a margin.
pub fn is_trimmed(name: &str) -> bool {
    name == OURS_TRIMMED || name == WHISPER_CPP_TRIMMED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_in_words() {
        let rival = Subject::plain(FASTER_WHISPER);
        assert_eq!(rival.described(), "int8, 2 threads");
        let batched = rival.with("batch", 8).with("workers", 2).with("threads", 1);
        assert_eq!(batched.described(), "int8, 2 workers of 1 thread, batches of 8");
        let other = Subject::plain(WHISPER_CPP).with("flash", false);
        assert_eq!(other.described(), "f16, without flash attention, 2 threads");
        let trimmed = other.clone().named(WHISPER_CPP_TRIMMED);
        assert_eq!(
            (trimmed.settings["trim"].as_bool(), other.settings["trim"].as_bool()),
            (Some(true), None)
        );
        assert_eq!(Subject::plain(OURS).described(), "2 threads");
    }
}
