//! A folder: every audio file in it, a few at a time, and only what is not done yet.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{StreamExt, stream};
use tokio::sync::Semaphore;
use transcript::Status;

use super::ledger::{self, Ledger, Line, Reached, Stamp, Step};
use super::{Arguments, Job, check, check_segments, send};
use crate::client::{Client, Recording};
use crate::config::Config;
use crate::out;
use crate::progress::Progress;
use crate::wishes::Shape;

/// Names of audio and video files end in these.
const EXTENSIONS: &[&str] = &[
    "3gp", "aac", "ac3", "aif", "aiff", "amr", "caf", "eac3", "flac", "m4a", "m4b", "m4v", "mka", "mkv",
    "mov", "mp2", "mp3", "mp4", "mpeg", "mpg", "mpga", "oga", "ogg", "opus", "spx", "ts", "wav", "webm",
    "wma",
];
/// Files that are waited for at once: the service decides in which order they come.
const WAITING_MAX: usize = 64;
/// How long polling pauses at most: many files share the rate that a key has.
const POLL_MANY: Duration = Duration::from_secs(3);

/// Goes through the folder.
///
/// # Errors
/// When nothing in it can be done at all.
pub async fn run(
    arguments: &Arguments,
    job: Arc<Job>,
    client: Client,
    config: &Config,
    progress: &Progress,
) -> anyhow::Result<ExitCode> {
    let subtitles = matches!(job.shape, Some(Shape::Srt | Shape::Vtt));
    if subtitles && arguments.output.is_none() {
        bail!("subtitles of many files cannot stand in one; add --output DIR to write a file for each");
    }
    let folder =
        arguments.path.canonicalize().with_context(|| format!("find {}", arguments.path.display()))?;
    let (files, passed_over) = list(&folder)?;
    if files.is_empty() {
        bail!(
            "there is no audio in {}: no name in it ends in one of {}",
            folder.display(),
            EXTENSIONS.join(", ")
        );
    }
    let service = job.redis.as_deref().unwrap_or(client.server());
    let place = ledger::place(&config.data, &folder, service, &job.fields);
    let ledger = Ledger::open(&place).unwrap_or_else(|error| {
        progress
            .say(&format!("what is sent cannot be remembered, so running this again starts over: {error:#}"));
        Ledger::default()
    });
    let sender = Sender {
        folder,
        job,
        client,
        progress: progress.clone(),
        ledger: Mutex::new(ledger),
        uploads: Semaphore::new(usize::from(arguments.jobs)),
        output: arguments.output.clone(),
        again: arguments.again,
    };

    let total = files.len();
    let meter = progress.begin(&arguments.path.display().to_string());
    meter.count(0, total as u64);
    let mut summary = Summary { total, passed_over, ..Summary::default() };
    let mut ends = stream::iter(files).map(|file| sender.one(file)).buffer_unordered(WAITING_MAX);
    while let Some((file, end)) = ends.next().await {
        summary.count(file, end);
        meter.count(summary.ended(), total as u64);
    }
    drop(meter);
    progress.say(&summary.text());
    if summary.sent > 0 {
        progress.say(
            "`voiceforge list` tells where they stand, `voiceforge get ID` reads one; \
             this line again with --output DIR writes all transcripts there",
        );
    }
    Ok(if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Sender {
    folder: PathBuf,
    job: Arc<Job>,
    client: Client,
    progress: Progress,
    ledger: Mutex<Ledger>,
    uploads: Semaphore,
    output: Option<PathBuf>,
    again: bool,
}

/// How it ended with one file.
enum End {
    /// It was done before.
    Skipped,
    /// It was sent, and nobody waited.
    Sent,
    /// Its transcript is handed over.
    Transcribed,
}

impl Sender {
    async fn one(&self, file: String) -> (String, anyhow::Result<End>) {
        let end = self.handle(&file).await;
        if let Err(error) = &end {
            self.progress.say(&format!("{file}: {error:#}"));
        }
        (file, end)
    }

    async fn handle(&self, file: &str) -> anyhow::Result<End> {
        let path = self.folder.join(file);
        let stamp = Stamp::of(&path).context("look at the file")?;
        let target = self.job.shape.zip(self.output.as_ref());
        let target = target.map(|(shape, output)| output.join(format!("{file}.{}", shape.extension())));
        let step = match self.again {
            true => Step::Send,
            false => {
                let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
                let is_kept = target.as_ref().is_none_or(|target| target.exists());
                ledger::next(ledger.known(file), stamp, self.job.shape.is_some(), is_kept)
            }
        };
        let known = match step {
            Step::Skip => return Ok(End::Skipped),
            Step::Send => None,
            // A service that was set up anew knows nothing of it.
            Step::Ask(id) => match self.client.recording(&id).await {
                Err(error) if error.is_not_found() => None,
                asked => Some(asked?),
            },
        };
        let recording = match known {
            Some(recording) => recording,
            None => {
                let _slot = self.uploads.acquire().await.context("wait for a free upload")?;
                let meter = Arc::new(self.progress.begin(file));
                let recording = self.job.send(&self.client, &path, file, &meter).await?;
                self.note(file, stamp, &recording, Reached::TakenIn)?;
                recording
            }
        };
        let Some(shape) = self.job.shape else {
            out::line(&format!("{}\t{file}", recording.address()))?;
            return Ok(End::Sent);
        };
        let recording = {
            let meter = self.progress.begin(file);
            send::wait(&self.client, recording, POLL_MANY, &meter).await?
        };
        if let Err(error) = check(&recording) {
            self.note(file, stamp, &recording, Reached::Failed)?;
            return Err(error);
        }
        let transcript = self.client.transcript(recording.address(), shape.into(), None).await?;
        match target {
            Some(target) => out::file(&target, &transcript.text)?,
            None => {
                let heading = if shape == Shape::Text { format!("==> {file} <==\n") } else { String::new() };
                self.progress.pause(|| out::line(&format!("{heading}{}", transcript.text)))?;
            }
        }
        if shape != Shape::Json {
            transcript.notes().iter().for_each(|note| self.progress.say(&format!("{file}: {note}")));
        }
        self.note(file, stamp, &recording, Reached::Complete)?;
        check_segments(&recording)?;
        Ok(End::Transcribed)
    }

    fn note(&self, file: &str, stamp: Stamp, recording: &Recording, reached: Reached) -> anyhow::Result<()> {
        let reached = if recording.status == Status::Complete { Reached::Complete } else { reached };
        let line = Line { file: file.to_owned(), stamp, id: recording.address().to_owned(), reached };
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).note(line)
    }
}

/// How it ended with all of them.
#[derive(Debug, Default)]
struct Summary {
    total: usize,
    skipped: u64,
    sent: u64,
    transcribed: u64,
    failures: Vec<(String, String)>,
    /// Files that are not audio by their names.
    passed_over: Vec<String>,
}

/// How many files that were passed over are named.
const NAMED_MAX: usize = 5;

impl Summary {
    fn count(&mut self, file: String, end: anyhow::Result<End>) {
        match end {
            Ok(End::Skipped) => self.skipped += 1,
            Ok(End::Sent) => self.sent += 1,
            Ok(End::Transcribed) => self.transcribed += 1,
            Err(error) => self.failures.push((file, format!("{error:#}"))),
        }
    }

    fn ended(&self) -> u64 {
        self.skipped + self.sent + self.transcribed + self.failures.len() as u64
    }

    fn text(&self) -> String {
        let counts = [
            (self.transcribed, "transcribed"),
            (self.sent, "handed in"),
            (self.skipped, "done before"),
            (self.failures.len() as u64, "failed"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let mut text = format!("{} files: {}", self.total, counts.join(", "));
        let named =
            self.passed_over.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = match self.passed_over.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        match self.passed_over.len() {
            0 => {}
            1 => text += &format!("; 1 other is not audio by its name: {named}"),
            others => text += &format!("; {others} others are not audio by their names: {named}{more}"),
        }
        if !self.passed_over.is_empty() {
            text += " (a file dropped by itself is sent whatever its name)";
        }
        let mut failures = self.failures.clone();
        failures.sort();
        for (file, reason) in failures {
            text += &format!("\n  {file}: {reason}");
        }
        text
    }
}

/// Lists the audio files below a folder by their names, in order, relative to it; and the others. Hidden ones are left
/// out, and folders behind links, which may lead in circles.
fn list(folder: &Path) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let (mut files, mut others) = (Vec::new(), Vec::new());
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let here = folder.join(&below);
        let entries = std::fs::read_dir(&here).with_context(|| format!("list {}", here.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", here.display()))?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
            let relative = below.join(&name);
            if kind.is_dir() {
                folders.push(relative);
            } else if let (true, Some(file)) =
                (is_audio(&relative) && entry.path().is_file(), relative.to_str())
            {
                files.push(file.to_owned());
            } else {
                others.push(relative.display().to_string());
            }
        }
    }
    files.sort();
    others.sort();
    Ok((files, others))
}

fn is_audio(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn audio_is_found_in_all_folders_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["b.MP3", "a/c.wav", "a/notes.txt", ".hidden/d.wav", "a/.e.wav", "a/b/f.opus"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/circle")).unwrap();
        let (files, others) = list(folder.path()).unwrap();
        assert_eq!(files, ["a/b/f.opus", "a/c.wav", "b.MP3"]);
        assert_eq!(others, ["a/circle", "a/notes.txt"]);
    }

    #[test]
    fn the_summary_tells_what_failed_and_why() {
        let passed_over = vec!["notes.txt".to_owned()];
        let mut summary = Summary { total: 4, passed_over, ..Summary::default() };
        summary.count("b.wav".to_owned(), Err(anyhow::anyhow!("rejected: this is text")));
        summary.count("c.wav".to_owned(), Ok(End::Transcribed));
        summary.count("d.wav".to_owned(), Ok(End::Skipped));
        summary.count("a.wav".to_owned(), Err(anyhow::anyhow!("failed: no sound")));
        assert_eq!(summary.ended(), 4);
        expect![[r#"
            4 files: 1 transcribed, 1 done before, 2 failed; 1 other is not audio by its name: notes.txt (a file dropped by itself is sent whatever its name)
              a.wav: failed: no sound
              b.wav: rejected: this is text"#]]
        .assert_eq(&summary.text());
        summary.failures.clear();
        summary.passed_over = (1..=7).map(|n| format!("{n}.txt")).collect();
        expect!["4 files: 1 transcribed, 1 done before; 7 others are not audio by their names: 1.txt, 2.txt, 3.txt, 4.txt, 5.txt and 2 more (a file dropped by itself is sent whatever its name)"]
            .assert_eq(&summary.text());
    }
}
