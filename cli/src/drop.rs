//! `voiceforge drop`: audio in, by HTTP or straight into the queue.

mod folder;
mod ledger;
mod queue;
mod send;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use transcript::Status;

use crate::client::{Client, Recording};
use crate::config::Config;
use crate::progress::{Meter, Progress};
use crate::wishes::{Lane, Server, Shape, Wishes};
use crate::{input, out};

/// What to hand in, where and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Audio or video file, a folder of them, or `-` for standard input
    #[arg(value_name = "FILE|DIR|-")]
    pub path: PathBuf,
    /// Wait for the end and print the transcript
    #[arg(long)]
    pub wait: bool,
    /// How to write the transcript; implies --wait (default: text)
    #[arg(long, value_enum)]
    pub format: Option<Shape>,
    /// Folder to write transcripts into, one file for each; implies --wait
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// The lane to go in: rt when somebody is waiting
    #[arg(long, value_enum, default_value_t)]
    pub lane: Lane,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub wishes: Wishes,
    /// What to call it (default: the file's name)
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Idempotency key: the same key again gives the same recording
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Files of a folder to send at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Send files of a folder again that are done
    #[arg(long)]
    pub again: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
    /// Write straight into the queue of this Redis instead of asking the API; files up to 64 MiB
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Whose recording it is, with --redis; the API takes the tenant from its key
    #[arg(long, value_name = "NAME", requires = "redis")]
    pub tenant: Option<events::Tenant>,
}

const EXAMPLES: &str = "\
Examples:
  voiceforge drop talk.mp3                         print its id, for `voiceforge get ID`
  voiceforge drop talk.mp3 --wait                  print the transcript; the id is on stderr
  voiceforge drop talk.mp3 --format srt > talk.srt
  voiceforge drop call.wav --wait --channels each --lane rt
  voiceforge drop talk.mp3 --format json --word-timestamps --beam-size 5
  voiceforge drop ~/recordings --output ~/transcripts
  curl -s https://example.com/talk.mp3 | voiceforge drop - --name talk.mp3 --wait
  voiceforge drop talk.mp3 --redis redis://127.0.0.1:6379

A folder is gone through with all its folders. What was sent is remembered: run the same line \
again after Ctrl-C, a crash or new files, and only what is missing is sent. Failed files are \
tried again. The exit code is 0 when all is well and 1 when some failed; the summary says which \
and why.";

/// How long polling pauses at most for a file somebody waits for.
const POLL_ONE: Duration = Duration::from_millis(400);

/// Runs it.
///
/// # Errors
/// What went wrong and what to do about it.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    let progress = Progress::new();
    let job = Arc::new(Job::new(&arguments));
    if !input::is_stdin(&arguments.path) && arguments.path.is_dir() {
        if arguments.name.is_some() || arguments.key.is_some() {
            bail!("--name and --key are of one file, not of a folder; leave them out");
        }
        return folder::run(&arguments, job, client, config, &progress).await;
    }
    let name = job.name(&arguments.path);
    let meter = Arc::new(progress.begin(&name));
    let recording = job.send(&client, &arguments.path, &name, &meter).await?;
    let id = recording.address().to_owned();
    let Some(shape) = job.shape else {
        std::mem::drop(meter);
        out::line(&id)?;
        progress.say(&format!(
            "handed in; `voiceforge get {id}` reads the transcript once it is there, with --about how far it is"
        ));
        return Ok(ExitCode::SUCCESS);
    };
    let recording = send::wait(&client, recording, POLL_ONE, &meter).await?;
    std::mem::drop(meter);
    check(&recording)?;
    let transcript = client.transcript(recording.address(), shape.into(), None).await?;
    let text = &transcript.text;
    match &arguments.output {
        Some(folder) => {
            let target = folder.join(format!("{name}.{}", shape.extension()));
            out::file(&target, text)?;
            progress.say(&format!("wrote {}", target.display()));
        }
        None => out::line(text)?,
    }
    if shape != Shape::Json {
        transcript.notes().iter().for_each(|note| progress.say(note));
    }
    if text.is_empty() {
        progress.say("no speech was found in it");
    }
    check_segments(&recording)?;
    Ok(ExitCode::SUCCESS)
}

/// What is the same for every file.
#[derive(Debug)]
struct Job {
    /// Fields of each drop.
    fields: Vec<(String, String)>,
    lane: Lane,
    redis: Option<String>,
    name: Option<String>,
    /// How the transcript is written, when it is waited for.
    shape: Option<Shape>,
}

impl Job {
    fn new(arguments: &Arguments) -> Job {
        let waits = arguments.wait || arguments.format.is_some() || arguments.output.is_some();
        let mut fields = arguments.wishes.fields();
        fields.extend(arguments.key.clone().map(|key| ("key".to_owned(), key)));
        fields.extend(arguments.tenant.as_ref().map(|tenant| ("tenant".to_owned(), tenant.to_string())));
        Job {
            fields,
            lane: arguments.lane,
            redis: arguments.redis.clone(),
            name: arguments.name.clone(),
            shape: waits.then(|| arguments.format.unwrap_or_default()),
        }
    }

    fn name(&self, path: &Path) -> String {
        self.name.clone().unwrap_or_else(|| input::name(path))
    }

    /// Hands one file in. What comes back is a recording, or a drop on its way to become one.
    async fn send(
        &self,
        client: &Client,
        path: &Path,
        name: &str,
        meter: &Arc<Meter>,
    ) -> anyhow::Result<Recording> {
        let mut fields = self.fields.clone();
        fields.push(("name".to_owned(), name.to_owned()));
        match &self.redis {
            Some(redis) => queue::send(redis, self.lane, fields, path, meter).await,
            None => {
                if self.lane != Lane::default() {
                    fields.push(("lane".to_owned(), events::Lane::from(self.lane).to_string()));
                }
                send::send(client, &fields, path, meter).await
            }
        }
    }
}

/// Every end but a transcript is an error with its reason.
fn check(recording: &Recording) -> anyhow::Result<()> {
    if recording.status == Status::Complete {
        return Ok(());
    }
    let reason = recording.reason.as_ref().map_or("no reason was given", |reason| reason.message.as_str());
    bail!("{}: {reason}", recording.status)
}

/// A transcript with holes is one, and still not all right.
fn check_segments(recording: &Recording) -> anyhow::Result<()> {
    let failed = recording.progress.failed_segments;
    let reason = recording.reason.as_ref().map_or(String::new(), |reason| format!(": {}", reason.message));
    anyhow::ensure!(failed == 0, "{failed} segments could not be transcribed{reason}");
    Ok(())
}
