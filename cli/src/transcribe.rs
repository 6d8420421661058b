//! `voiceforge transcribe`: files in, text out, without any service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use service::telemetry;
use transcript::{State, Status, Transcript};

use crate::config::Config;
use crate::local::{Backend, Local, Options};
use crate::progress::{Progress, Standing, clock};
use crate::wishes::{Shape, Wishes};
use crate::{input, models, out};

/// What to transcribe and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Audio or video files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How to write the transcript
    #[arg(long, value_enum, default_value_t)]
    pub format: Shape,
    /// Folder to write into, one file for each, instead of standard output
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub wishes: Wishes,
    /// Folder of models (default: VOICEFORGE_MODELS, else where `models pull` puts them, else that of what `voiceforge up`
    /// started in the folder VOICEFORGE_DATA)
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Decode what is not built in through ffmpeg: off, auto (if it is there), or its path
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub ffmpeg: String,
    /// Threads to compute with (default: one for each processor)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Where the model runs
    #[arg(long, value_enum, default_value_t)]
    pub backend: Backend,
    /// Which GPU, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub device: usize,
}

const EXAMPLES: &str = "\
Examples:
  voiceforge transcribe talk.mp3
  voiceforge transcribe talk.mp3 --format srt > talk.srt
  voiceforge transcribe *.wav --format vtt --output subtitles
  voiceforge transcribe interview.mp4 --model base --language de
  voiceforge transcribe call.wav --channels each
  voiceforge transcribe talk.mp3 --format json --word-timestamps --hotwords 'Ana, Zé'
  ffmpeg -i film.mkv -f wav - | voiceforge transcribe -";

/// Runs it.
///
/// # Errors
/// What went wrong with the whole; what is wrong with one file is told, and is exit code 1.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let subtitles = matches!(arguments.format, Shape::Srt | Shape::Vtt);
    if subtitles && arguments.files.len() > 1 && arguments.output.is_none() {
        bail!("subtitles of several files cannot stand in one; add --output DIR to write a file for each");
    }
    telemetry::init("voiceforge", telemetry::Format::Pretty, &config.log)?;
    let progress = Progress::new();
    let told = |file: &Path, error: &anyhow::Error| {
        progress.say(&format!("voiceforge: {}: {error:#}", file.display()));
    };
    // Looked at first: loading the model takes a while.
    let mut files = Vec::new();
    for file in &arguments.files {
        match check(file).await {
            Ok(()) => files.push(file),
            Err(error) => told(file, &error),
        }
    }
    if files.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let folders = models::folders(arguments.models.as_deref(), config, &config.data);
    let wished = arguments.wishes.model.as_deref().or(config.model.as_deref());
    let models::Choice { folder, name: model } = models::choose(&folders, wished)?;
    let mut local = {
        let meter = progress.begin(&model);
        meter.activity("loading the model");
        let Arguments { threads, backend, device, .. } = arguments;
        let ffmpeg = arguments.ffmpeg.clone();
        Local::start(Options { models: folder, model, ffmpeg, threads, backend, device }).await?
    };

    let mut failures = arguments.files.len() - files.len();
    for file in files {
        let transcribed = match transcribe(&mut local, file, &arguments.wishes, &progress).await {
            Ok(transcript) => hand_over(&arguments, file, &transcript, &progress),
            Err(error) => Err(error),
        };
        if let Err(error) = transcribed {
            failures += 1;
            told(file, &error);
        }
    }
    local.stop().await;
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether there is something to read.
async fn check(file: &Path) -> anyhow::Result<()> {
    match input::is_stdin(file) {
        true => Ok(()),
        false => input::open(file).await.map(drop),
    }
}

/// Transcribes one file; every other end than a transcript is an error that says why.
async fn transcribe(
    local: &mut Local,
    file: &Path,
    wishes: &Wishes,
    progress: &Progress,
) -> anyhow::Result<Transcript> {
    let name = input::name(file);
    let meter = progress.begin(&name);
    meter.activity("reading");
    let audio = match input::is_stdin(file) {
        true => input::stdin()?,
        false => input::open(file).await?.0,
    };
    let mut fields = wishes.fields();
    fields.push(("name".to_owned(), name));
    let drop = local.submit(audio, fields).await?;
    loop {
        if let Some(state) = local.state(&drop) {
            meter.standing(&Standing::of(&state));
            if state.status.is_final() {
                return end(local, &drop, &state);
            }
        }
        local.changed().await?;
        // Facts come in bursts, and a fold of many segments is not free.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn end(local: &Local, drop: &str, state: &State) -> anyhow::Result<Transcript> {
    let reason = || state.reason.as_ref().map_or("no reason was given", |cause| cause.message.as_str());
    match (state.status, local.transcript(drop)) {
        (Status::Complete, Some(transcript)) => Ok(transcript),
        (status, _) => bail!("{status}: {}", reason()),
    }
}

/// Prints a transcript or writes it to its file, and says what is missing in it.
fn hand_over(
    arguments: &Arguments,
    file: &Path,
    transcript: &Transcript,
    progress: &Progress,
) -> anyhow::Result<()> {
    if let Some((at_ms, reason)) = &transcript.truncated {
        let at = clock(*at_ms as f64 / 1000.0);
        progress.say(&format!("voiceforge: {}: the file breaks off at {at}: {reason}", file.display()));
    }
    let text = transcript::render(transcript, arguments.format.into());
    match &arguments.output {
        Some(folder) => {
            let target = folder.join(format!("{}.{}", input::name(file), arguments.format.extension()));
            out::file(&target, &text)?;
            progress.say(&format!("wrote {}", target.display()));
        }
        None => {
            let heading = match arguments.files.len() > 1 && arguments.format == Shape::Text {
                true => format!("==> {} <==\n", file.display()),
                false => String::new(),
            };
            progress.pause(|| out::line(&format!("{heading}{text}")))?;
        }
    }
    let failed = transcript.failed_segments();
    anyhow::ensure!(
        failed == 0,
        "{failed} of {} segments could not be transcribed{}",
        transcript.segments.len(),
        transcript.reason.as_ref().map_or(String::new(), |cause| format!(": {}", cause.message))
    );
    Ok(())
}
