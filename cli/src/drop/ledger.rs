//! What was sent of a folder, so that the same line typed again goes on where it stopped: a file of JSON lines, one
//! for each thing that happened, the last one about a file counting.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What tells that a file is still the one it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its size.
    pub bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub changed_ns: u64,
}

impl Stamp {
    /// Looks at a file.
    ///
    /// # Errors
    /// By the file system.
    pub fn of(path: &Path) -> std::io::Result<Stamp> {
        let about = std::fs::metadata(path)?;
        let changed = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Stamp { bytes: about.len(), changed_ns: u64::try_from(changed.as_nanos()).unwrap_or(u64::MAX) })
    }
}

/// How far a file came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// The service has it.
    TakenIn,
    /// Its transcript was seen.
    Complete,
    /// It ended without one.
    Failed,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The file, relative to the folder.
    pub file: String,
    /// The file as it was.
    pub stamp: Stamp,
    /// The id to ask for.
    pub id: String,
    /// How far it came.
    pub reached: Reached,
}

/// What to do with a file now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it.
    Send,
    /// It was sent: ask what became of it.
    Ask(String),
    /// Nothing is left to do.
    Skip,
}

/// What to do with a file as it is, given what happened last. `waits`: its end matters, not only that it was sent;
/// `is_kept`: its transcript stands where it belongs.
pub fn next(known: Option<&Line>, stamp: Stamp, waits: bool, is_kept: bool) -> Step {
    match known {
        Some(line) if line.stamp == stamp => match line.reached {
            Reached::Complete if is_kept || !waits => Step::Skip,
            Reached::TakenIn if !waits => Step::Skip,
            Reached::Complete | Reached::TakenIn => Step::Ask(line.id.clone()),
            Reached::Failed => Step::Send,
        },
        _ => Step::Send,
    }
}

/// The memory of one folder, for one service and one set of options.
#[derive(Debug, Default)]
pub struct Ledger {
    known: BTreeMap<String, Line>,
    file: Option<File>,
}

impl Ledger {
    /// Opens the memory at `path`, which need not be there.
    ///
    /// # Errors
    /// By the file system.
    pub fn open(path: &Path) -> anyhow::Result<Ledger> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let open = || -> std::io::Result<(String, File)> {
            std::fs::create_dir_all(folder)?;
            let mut file = File::options().create(true).append(true).read(true).open(path)?;
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes)?;
            // A line that a crash tore is ended, so that the next one stands alone.
            if bytes.last().is_some_and(|&last| last != b'\n') {
                file.write_all(b"\n")?;
            }
            Ok((String::from_utf8_lossy(&bytes).into_owned(), file))
        };
        let (text, file) = open().with_context(|| format!("open {}", path.display()))?;
        Ok(Ledger { known: read(&text), file: Some(file) })
    }

    /// What happened last with a file.
    pub fn known(&self, file: &str) -> Option<&Line> {
        self.known.get(file)
    }

    /// Remembers what happened.
    ///
    /// # Errors
    /// By the file system.
    pub fn note(&mut self, line: Line) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            let mut text = serde_json::to_string(&line).context("write a line of what was sent")?;
            text.push('\n');
            file.write_all(text.as_bytes()).context("remember what was sent")?;
        }
        self.known.insert(line.file.clone(), line);
        Ok(())
    }
}

/// Reads lines; one that cannot be read is one that a crash tore, and its file is done again.
fn read(text: &str) -> BTreeMap<String, Line> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.map(|line| (line.file.clone(), line)).collect()
}

/// Where the memory of a folder lies: another service or other options are other recordings.
pub fn place(data: &Path, folder: &Path, service: &str, fields: &[(String, String)]) -> PathBuf {
    let mut hash = Sha256::new();
    let mut add = |part: &str| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(&folder.to_string_lossy());
    add(service);
    for (name, value) in fields {
        add(name);
        add(value);
    }
    let name = hex::encode(&hash.finalize()[..8]);
    data.join("drops").join(format!("{name}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { bytes: 7, changed_ns: 11 };

    fn line(reached: Reached) -> Line {
        Line { file: "a/talk.mp3".to_owned(), stamp: STAMP, id: "id7".to_owned(), reached }
    }

    #[test]
    fn what_is_done_is_skipped_and_what_failed_is_sent_again() {
        let ask = Step::Ask("id7".to_owned());
        for (known, waits, is_kept, then) in [
            (None, false, false, Step::Send),
            (Some(Reached::TakenIn), false, false, Step::Skip),
            (Some(Reached::TakenIn), true, false, ask.clone()),
            (Some(Reached::Complete), false, false, Step::Skip),
            (Some(Reached::Complete), true, true, Step::Skip),
            (Some(Reached::Complete), true, false, ask),
            (Some(Reached::Failed), true, true, Step::Send),
            (Some(Reached::Failed), false, false, Step::Send),
        ] {
            let line = known.map(line);
            assert_eq!(next(line.as_ref(), STAMP, waits, is_kept), then, "{known:?} {waits} {is_kept}");
            let changed = Stamp { bytes: 8, ..STAMP };
            assert_eq!(
                next(line.as_ref(), changed, waits, is_kept),
                Step::Send,
                "a changed file is another one"
            );
        }
    }

    #[test]
    fn the_last_line_counts_and_a_torn_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("drops/x.jsonl");
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.known("a/talk.mp3"), None);
        ledger.note(line(Reached::TakenIn)).unwrap();
        ledger.note(line(Reached::Complete)).unwrap();
        let other = Line { file: "b.wav".to_owned(), ..line(Reached::TakenIn) };
        ledger.note(other.clone()).unwrap();
        drop(ledger);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 10]).unwrap();

        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.known("a/talk.mp3"), Some(&line(Reached::Complete)));
        assert_eq!(ledger.known("b.wav"), None);
        ledger.note(other.clone()).unwrap();
        drop(ledger);
        assert_eq!(Ledger::open(&path).unwrap().known("b.wav"), Some(&other));
    }

    #[test]
    fn other_options_are_another_memory() {
        let place = |folder: &str, service: &str, model: &str| {
            let fields = [("model".to_owned(), model.to_owned())];
            super::place(Path::new("/data"), Path::new(folder), service, &fields)
        };
        let one = place("/audio", "http://a", "tiny.en");
        assert_eq!(one, place("/audio", "http://a", "tiny.en"));
        assert_ne!(one, place("/audio2", "http://a", "tiny.en"));
        assert_ne!(one, place("/audio", "http://b", "tiny.en"));
        assert_ne!(one, place("/audio", "http://a", "base"));
    }
}
