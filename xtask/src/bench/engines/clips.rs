//! What is read to the engines: sentences as they were spoken, joined where a workload wants longer ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::statistics::Chance;
use crate::cargo;
use crate::setup::{samples_of, wav_of};

const RATE: usize = 16_000;
/// Bytes of the pause between joined sentences: 0.3 s.
const PAUSE_BYTES: usize = RATE * 2 * 3 / 10;
/// Sentences longer than this are only read as parts of long recordings.
const SENTENCE_S_MAX: f64 = 20.0;

/// A recording on disk with what is said in it.
#[derive(Clone)]
pub struct Clip {
    pub wav: PathBuf,
    pub text: String,
    pub seconds: f64,
}

/// The recordings at hand, and a folder for those made of them.
pub struct Clips {
    folder: PathBuf,
    all: Vec<Clip>,
}

impl Clips {
    /// Brings the recordings of some folders to 16 kHz mono in `folder`. Their texts lie beside them as NAME.txt or in
    /// a `transcripts.tsv` of names and texts; a recording without a text is left out.
    pub fn gather(folders: &[PathBuf], folder: &Path, python: &Path, script: &Path) -> Result<Clips> {
        std::fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
        let mut found = Vec::new();
        for source in folders {
            let table = std::fs::read_to_string(source.join("transcripts.tsv")).unwrap_or_default();
            let listed = std::fs::read_dir(source).with_context(|| format!("list {}", source.display()))?;
            let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in
                files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "wav" || e == "flac"))
            {
                let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let row = table.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix('\t'));
                let beside = std::fs::read_to_string(file.with_extension("txt")).ok();
                // `dashwood` joins sentences that are there one by one.
                if let Some(text) = row.map(str::to_owned).or(beside).filter(|_| name != "dashwood") {
                    found.push((file, name, text));
                }
            }
        }
        let mut decode = Command::new(python);
        decode.arg(script).arg("decode").arg(folder).args(found.iter().map(|(file, _, _)| file));
        if !cargo::status(&mut decode)?.success() {
            bail!("the recordings could not be decoded");
        }
        let all = found
            .into_iter()
            .map(|(_, name, text)| {
                let wav = folder.join(format!("{name}.wav"));
                let seconds = samples(&wav)?.len() as f64 / (RATE * 2) as f64;
                Ok(Clip { wav, text, seconds })
            })
            .collect::<Result<_>>()?;
        Ok(Clips { folder: folder.to_owned(), all })
    }

    /// Each recording by itself.
    pub fn all(&self) -> &[Clip] {
        &self.all
    }

    /// Single sentences of 3 to 10 s.
    pub fn short(&self) -> Vec<Clip> {
        self.all.iter().filter(|clip| (3.0..=10.0).contains(&clip.seconds)).cloned().collect()
    }

    /// Continuous speech of at most so many seconds: every recording that still fits, in turn, again and again.
    pub fn continuous(&self, seconds: f64) -> Result<Clip> {
        let mut parts: Vec<&Clip> = Vec::new();
        let mut length = 0.0;
        loop {
            let before = parts.len();
            for clip in &self.all {
                if length + clip.seconds + pause() <= seconds {
                    length += clip.seconds + pause();
                    parts.push(clip);
                }
            }
            if parts.len() == before {
                break;
            }
        }
        self.join(&format!("continuous-{seconds:.0}"), &parts)
    }

    /// Clips of 1 to 30 s, every length as likely: sentences are joined while they fit the length that was drawn.
    pub fn mixed(&self, count: usize, seed: u64) -> Result<Vec<Clip>> {
        let sentences: Vec<&Clip> = self.all.iter().filter(|clip| clip.seconds <= SENTENCE_S_MAX).collect();
        let mut chance = Chance::new(seed);
        (0..count)
            .map(|number| {
                let wanted = 1.0 + 28.9 * chance.unit();
                let (mut parts, mut length) = (Vec::new(), 0.0);
                loop {
                    let left = wanted - length;
                    let fitting: Vec<&Clip> =
                        sentences.iter().copied().filter(|clip| clip.seconds + pause() <= left).collect();
                    let shortest =
                        || sentences.iter().copied().min_by(|a, b| a.seconds.total_cmp(&b.seconds));
                    let next = match fitting.get(chance.below(fitting.len())) {
                        Some(clip) => *clip,
                        None if parts.is_empty() => shortest().context("there are no sentences to mix")?,
                        None => break,
                    };
                    length += next.seconds + pause();
                    parts.push(next);
                }
                self.join(&format!("mixed-{number}"), &parts)
            })
            .collect()
    }

    fn join(&self, name: &str, parts: &[&Clip]) -> Result<Clip> {
        let mut joined = Vec::new();
        for part in parts {
            if !joined.is_empty() {
                joined.extend([0; PAUSE_BYTES]);
            }
            joined.extend(samples(&part.wav)?);
        }
        let wav = self.folder.join(format!("{name}.wav"));
        std::fs::write(&wav, wav_of(&joined)).with_context(|| format!("write {}", wav.display()))?;
        let texts: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
        Ok(Clip { wav, text: texts.join(" "), seconds: joined.len() as f64 / (RATE * 2) as f64 })
    }
}

fn pause() -> f64 {
    PAUSE_BYTES as f64 / (RATE * 2) as f64
}

fn samples(wav: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(wav).with_context(|| format!("read {}", wav.display()))?;
    Ok(samples_of(&bytes).with_context(|| format!("read {}", wav.display()))?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clips(folder: &Path, seconds: &[usize]) -> Clips {
        std::fs::create_dir_all(folder).unwrap();
        let all = seconds.iter().enumerate().map(|(number, seconds)| {
            let wav = folder.join(format!("{number}.wav"));
            std::fs::write(&wav, wav_of(&vec![0; RATE * 2 * seconds])).unwrap();
            Clip { wav, text: format!("word{number}"), seconds: *seconds as f64 }
        });
        Clips { folder: folder.to_owned(), all: all.collect() }
    }

    #[test]
    fn mixed_clips_fit_a_window_and_continuous_speech_its_length() {
        let folder = std::env::temp_dir().join(format!("voiceforge-clips-{}", std::process::id()));
        let clips = clips(&folder, &[2, 5, 9, 40]);
        assert_eq!(clips.short().len(), 2);
        let mixed = clips.mixed(30, 1).unwrap();
        assert!(
            mixed.iter().all(|clip| (1.0..=30.0).contains(&clip.seconds) && !clip.text.contains("word3"))
        );
        assert!(mixed.iter().any(|clip| clip.seconds < 8.0) && mixed.iter().any(|clip| clip.seconds > 20.0));
        let again: Vec<String> = clips.mixed(30, 1).unwrap().into_iter().map(|clip| clip.text).collect();
        assert_eq!(mixed.iter().map(|clip| clip.text.clone()).collect::<Vec<_>>(), again);
        let minute = clips.continuous(60.0).unwrap();
        assert_eq!((minute.text.as_str(), minute.seconds), ("word0 word1 word2 word3 word0", 59.2));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
