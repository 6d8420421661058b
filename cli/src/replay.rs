//! `voiceforge replay`: recordings transcribed again, with another model or other settings.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use events::Tenant;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use transcript::Status;

use crate::client::{self, Client, part};
use crate::config::Config;
use crate::out;
use crate::progress::{Progress, clock};
use crate::wishes::{Server, Wishes, time};

/// Which recordings and how.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    group = ArgGroup::new("which").required(true).multiple(true)
        .args(["all", "since", "until", "id", "made_by", "tenant", "status", "run"])
)]
pub struct Arguments {
    /// What to do with runs that were made before.
    #[command(subcommand)]
    pub act: Option<Act>,
    /// Every recording that has ended
    #[arg(long, conflicts_with_all = ["since", "until", "id", "made_by", "status"])]
    pub all: bool,
    /// Recordings handed in at this time or later, such as 2026-01-31 or 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Recordings handed in before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
    /// This recording, by its id or that of its drop; may be given again
    #[arg(long, value_name = "ID", value_parser = client::id)]
    pub id: Vec<String>,
    /// Recordings whose readers see what this model made
    #[arg(long, value_name = "MODEL")]
    pub made_by: Option<String>,
    /// Recordings of this tenant instead of the key's own; takes an operator's key
    #[arg(long, value_name = "NAME", conflicts_with = "run")]
    pub tenant: Option<Tenant>,
    /// Recordings that stand there: complete, failed or cancelled; may be given again (default: the first two)
    #[arg(long, value_name = "STATUS")]
    pub status: Vec<Status>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub wishes: Wishes,
    /// Temperatures to climb when a result is poor, such as 0,0.4,0.8
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub temperature: Vec<f32>,
    /// When readers see the new transcripts
    #[arg(long, value_enum, default_value_t)]
    pub activation: Activation,
    /// Request this many hours of audio in an hour, at most
    #[arg(long, value_name = "HOURS")]
    pub rate: Option<f64>,
    /// Only tell how many recordings and hours that is
    #[arg(long)]
    pub dry_run: bool,
    /// Wait for the end and show how far it is; Ctrl-C leaves it running
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Watch this run instead of making one
    #[arg(long, value_name = "RUN", value_parser = client::id, conflicts_with_all = ["all", "since", "until", "id", "made_by", "status", "dry_run"])]
    pub run: Option<String>,
    /// Write the run as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
What is left out stays as it was for each recording: its own model, language and so on. Live audio goes first.

Examples:
  voiceforge replay --made-by tiny.en --model base --dry-run     how many recordings and hours
  voiceforge replay --made-by tiny.en --model base --wait        readers see each as it is complete
  voiceforge replay --since 2026-01-01 --model small --activation manual --rate 2
  voiceforge replay --tenant acme --model base                   with an operator's key
  voiceforge compare --run RUN                                   what differs most
  voiceforge replay activate RUN                                 readers see them from now on
  voiceforge replay --run RUN                                    watch it again
  voiceforge replay cancel RUN";

/// What can be done with a run.
#[derive(Debug, Subcommand)]
pub enum Act {
    /// List runs, the newest first
    Ls(Ls),
    /// Tell how far a run is
    Show(One),
    /// Stop a run; what is complete stays
    Cancel(One),
    /// Let readers see what a run made
    Activate(One),
}

/// How many runs to list.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  voiceforge replay ls\n  voiceforge replay ls --limit 100 --json")]
pub struct Ls {
    /// Those of this tenant instead of the key's own; takes an operator's key
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<Tenant>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Write a line of JSON for each
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

/// Which run.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  voiceforge replay show 6f1c1a52-8f0e-4f0a-9a53-0b9a4a4b8f11\n  voiceforge replay cancel 6f1c1a52-8f0e-4f0a-9a53-0b9a4a4b8f11\n  voiceforge replay activate 6f1c1a52-8f0e-4f0a-9a53-0b9a4a4b8f11"
)]
pub struct One {
    /// Id of the run
    #[arg(value_parser = client::id)]
    pub run: String,
    /// Write the run as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

/// When readers see a new transcript.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Activation {
    /// Once it is complete, unless more of its segments failed than before.
    #[default]
    Auto,
    /// Once somebody activates it.
    Manual,
}

/// A run as the API tells it, as far as it is shown.
#[derive(Debug, Deserialize)]
struct Run {
    id: String,
    status: String,
    reason: Option<Reason>,
    created_at: String,
    activation: String,
    activating: bool,
    wishes: BTreeMap<String, Value>,
    progress: RunProgress,
}

#[derive(Debug, Deserialize)]
struct Reason {
    message: String,
}

#[derive(Debug, Deserialize)]
struct RunProgress {
    share: f64,
    selected: u64,
    requested: u64,
    complete: u64,
    failed: u64,
    cancelled: u64,
    activated: u64,
    /// None from an API that does not tell it yet.
    visible: Option<u64>,
    skipped: BTreeMap<String, u64>,
    audio_s: f64,
    ended_audio_s: f64,
    speed: Option<f64>,
    eta_s: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct DryRun {
    recordings: u64,
    audio_s: f64,
}

/// How often a run that is watched is asked about.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    match arguments.act {
        Some(Act::Ls(ls)) => return list_runs(ls, config).await,
        Some(Act::Show(one)) => return show(one, config).await,
        Some(Act::Cancel(one)) => return act(one, "cancel", config).await,
        Some(Act::Activate(one)) => return act(one, "activate", config).await,
        None => {}
    }
    let client = Client::new(&arguments.server, config)?;
    if let Some(id) = &arguments.run {
        return watch(&client, id, arguments.json).await;
    }
    if let (Some(since), Some(until)) = (arguments.since, arguments.until)
        && since >= until
    {
        bail!("--until {until} is not after --since {since}, so nothing is between");
    }
    let ids = match arguments.tenant {
        // The ids of another tenant's drops cannot be looked up.
        Some(_) => arguments.id.clone(),
        None => recordings(&client, &arguments.id).await?,
    };
    let body = body(&arguments, &ids);
    if arguments.dry_run {
        let told: Value = client.post("/v1/generations", &body).await?;
        if arguments.json {
            out::line(&told.to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        let DryRun { recordings, audio_s } = serde_json::from_value(told)?;
        out::line(&selection(recordings, audio_s))?;
        return Ok(ExitCode::SUCCESS);
    }
    let made: Value = client.post("/v1/generations", &body).await?;
    let run: Run = serde_json::from_value(made.clone())?;
    if arguments.wait {
        return watch(&client, &run.id, arguments.json).await;
    }
    match arguments.json {
        true => out::line(&made.to_string())?,
        false => {
            let RunProgress { selected, audio_s, .. } = run.progress;
            eprintln!("{}; watch it: voiceforge replay --run {}", selection(selected, audio_s), run.id);
            out::line(&run.id)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The recordings that are named: by their ids, or by those of their drops.
async fn recordings(client: &Client, named: &[String]) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for id in named {
        let recording = client.recording(id).await.with_context(|| format!("--id {id}"))?;
        ids.push(recording.id.with_context(|| format!("--id {id}: the drop is not a recording yet"))?);
    }
    Ok(ids)
}

/// What the API is asked for; what was not said is left out.
fn body(arguments: &Arguments, ids: &[String]) -> Value {
    let mut body: serde_json::Map<String, Value> =
        arguments.wishes.fields().into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    let mut say = |name: &str, value: Option<Value>| {
        body.extend(value.map(|value| (name.to_owned(), value)));
    };
    say("tenant", arguments.tenant.as_ref().map(|tenant| json!(tenant)));
    say("from", arguments.since.map(|since| json!(since)));
    say("until", arguments.until.map(|until| json!(until)));
    say("made_by", arguments.made_by.clone().map(Value::from));
    say("ids", (!ids.is_empty()).then(|| json!(ids)));
    let status: Vec<&str> = arguments.status.iter().map(|status| status.as_str()).collect();
    say("status", (!status.is_empty()).then(|| json!(status)));
    // As text, so that 0.4 does not become 0.4000000059604645 on the way.
    let temperature: Vec<String> = arguments.temperature.iter().map(ToString::to_string).collect();
    say("temperature", (!temperature.is_empty()).then(|| json!(temperature)));
    say("activation", (arguments.activation == Activation::Manual).then(|| json!("manual")));
    say("rate", arguments.rate.map(Value::from));
    say("dry_run", arguments.dry_run.then_some(Value::Bool(true)));
    Value::Object(body)
}

/// Shows how far a run is until it has ended.
async fn watch(client: &Client, id: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let path = run_path(id);
    let meter = Progress::new().begin("replay");
    let ended = loop {
        let told = match client.get::<Value>(&path, &[]).await {
            Ok(told) => told,
            Err(error) if error.is_transient() && client.has_answered() => {
                meter.activity(&error.to_string());
                tokio::time::sleep(WATCH_EVERY * 4).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let run: Run = serde_json::from_value(told.clone())?;
        meter.show(&run.status, run.progress.share, &stand(&run.progress));
        if told["ended_at"].is_string() {
            break told;
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            _ = tokio::signal::ctrl_c() => {
                drop(meter);
                eprintln!(
                    "the run goes on; watch it again: voiceforge replay --run {id}\nstop it: voiceforge replay cancel {id}"
                );
                return Ok(ExitCode::SUCCESS);
            }
        }
    };
    drop(meter);
    tell(&ended, as_json)?;
    Ok(if ended["status"] == "done" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a run is about.
fn selection(recordings: u64, audio_s: f64) -> String {
    let noun = if recordings == 1 { "recording" } else { "recordings" };
    format!("{recordings} {noun}, {} of audio", clock(audio_s))
}

/// How far a run is, in one line.
fn stand(progress: &RunProgress) -> String {
    let RunProgress { selected, complete, failed, skipped, audio_s, ended_audio_s, .. } = progress;
    let skipped: u64 = skipped.values().sum();
    let mut text =
        format!("{complete} of {selected} recordings, {} of {}", clock(*ended_audio_s), clock(*audio_s));
    for (count, what) in [(*failed, "failed"), (skipped, "skipped")] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    if let Some(eta) = progress.eta_s {
        text += &format!(", {} left", clock(eta));
    }
    text
}

fn tell(told: &Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return out::line(&told.to_string());
    }
    let run: Run = serde_json::from_value(told.clone())?;
    out::write(&summary(&run))?;
    if let Some(note) = note(&run) {
        eprintln!("{note}");
    }
    Ok(())
}

/// All about a run, a line each.
fn summary(run: &Run) -> String {
    let progress = &run.progress;
    let decoding = run.wishes.get("decoding").and_then(Value::as_object);
    let wishes: Vec<String> = run
        .wishes
        .iter()
        .filter(|(_, value)| !value.is_null() && !value.is_object())
        .chain(decoding.into_iter().flatten())
        .map(|(name, value)| {
            format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    let skipped = progress.skipped.iter().map(|(reason, count)| format!("{count} {reason}"));
    let mut rows = vec![
        ["run".to_owned(), run.id.clone()],
        ["status".to_owned(), run.status.clone()],
        ["made".to_owned(), out::second(&run.created_at)],
        [
            "with".to_owned(),
            if wishes.is_empty() { "each recording's own settings".into() } else { wishes.join(", ") },
        ],
        [
            "activation".to_owned(),
            format!("{}{}", run.activation, if run.activating { ", activating" } else { "" }),
        ],
        ["audio".to_owned(), format!("{} of {}", clock(progress.ended_audio_s), clock(progress.audio_s))],
        ["selected".to_owned(), progress.selected.to_string()],
        ["requested".to_owned(), progress.requested.to_string()],
        ["complete".to_owned(), progress.complete.to_string()],
        ["failed".to_owned(), progress.failed.to_string()],
        ["cancelled".to_owned(), progress.cancelled.to_string()],
    ];
    rows.extend(
        progress.visible.map(|visible| {
            ["readers see".to_owned(), format!("{visible} of {} complete", progress.complete)]
        }),
    );
    // How often somebody had the run activated is of interest where somebody did.
    if progress.activated > 0 {
        rows.push(["activated".to_owned(), progress.activated.to_string()]);
    }
    if !progress.skipped.is_empty() {
        rows.push(["skipped".to_owned(), skipped.collect::<Vec<_>>().join(", ")]);
    }
    rows.extend(progress.speed.map(|speed| ["speed".to_owned(), format!("{speed:.1} s of audio a second")]));
    rows.extend(progress.eta_s.map(|eta| ["left".to_owned(), clock(eta)]));
    rows.extend(run.reason.iter().map(|reason| ["reason".to_owned(), reason.message.clone()]));
    out::columns(&rows.into_iter().map(Vec::from).collect::<Vec<_>>())
}

/// Why readers do not see all that a run completed, and what shows it to them.
fn note(run: &Run) -> Option<String> {
    let RunProgress { complete, visible, .. } = run.progress;
    let hidden = complete.checked_sub(visible?).filter(|&hidden| hidden > 0 && !run.activating)?;
    let why = match &*run.activation {
        "manual" => "it was to be activated by hand",
        _ => "what was activated by hand stays, and so does what is newer or has fewer failed segments",
    };
    Some(format!(
        "readers see other transcripts of {hidden} {}: {why}; `voiceforge replay activate {}` shows them this run's",
        if hidden == 1 { "recording" } else { "recordings" },
        run.id
    ))
}

async fn list_runs(ls: Ls, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&ls.server, config)?;
    let tenant = ls.tenant.as_ref().map(|tenant| ("tenant".to_owned(), tenant.to_string()));
    let items = client.pages("/v1/generations", tenant.as_slice(), ls.limit).await?;
    if ls.json {
        for item in &items {
            out::line(&item.to_string())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let heads = ["run", "made", "status", "model", "recordings", "complete", "failed", "skipped", "audio"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for item in items {
        let run: Run = serde_json::from_value(item)?;
        let RunProgress { selected, complete, failed, skipped, audio_s, .. } = run.progress;
        let skipped: u64 = skipped.values().sum();
        let model = run.wishes.get("model").and_then(Value::as_str).unwrap_or("own");
        let counts = [selected, complete, failed, skipped].map(|count| count.to_string());
        rows.push(
            [
                vec![run.id, out::second(&run.created_at), run.status, model.to_owned()],
                counts.to_vec(),
                vec![clock(audio_s)],
            ]
            .concat(),
        );
    }
    out::table(&rows)?;
    Ok(ExitCode::SUCCESS)
}

async fn show(one: One, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&one.server, config)?;
    tell(&client.get(&run_path(&one.run), &[]).await?, one.json)?;
    Ok(ExitCode::SUCCESS)
}

async fn act(one: One, what: &str, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&one.server, config)?;
    let told: Value = client.act(&format!("{}/{what}", run_path(&one.run))).await?;
    tell(&told, one.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The path of a run; an id that is none cannot lead elsewhere.
pub fn run_path(id: &str) -> String {
    format!("/v1/generations/{}", part(id))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn run_of(activation: &str, visible: u64, activated: u64) -> Run {
        serde_json::from_value(json!({
            "id": "6f1c1a52", "status": "done", "reason": null, "created_at": "2026-02-03T04:05:06.789Z",
            "activation": activation, "activating": false, "wishes": { "model": "base", "language": null },
            "progress": {
                "share": 1.0, "selected": 5, "requested": 4, "complete": 3, "failed": 1, "cancelled": 0,
                "activated": activated, "visible": visible, "skipped": { "audio_gone": 1 },
                "audio_s": 7200.0, "ended_audio_s": 7200.0, "speed": 2.0, "eta_s": null,
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_run_tells_what_readers_see_of_it() {
        expect![[r#"
            run          6f1c1a52
            status       done
            made         2026-02-03 04:05:06
            with         model base
            activation   auto
            audio        2:00:00 of 2:00:00
            selected     5
            requested    4
            complete     3
            failed       1
            cancelled    0
            readers see  3 of 3 complete
            skipped      1 audio_gone
            speed        2.0 s of audio a second
        "#]]
        .assert_eq(&summary(&run_of("auto", 3, 0)));
        assert!(summary(&run_of("manual", 3, 3)).contains("activated    3\n"));
    }

    #[test]
    fn what_readers_do_not_see_of_a_run_is_told_with_the_command_that_shows_it() {
        assert_eq!(note(&run_of("auto", 3, 0)), None);
        expect!["readers see other transcripts of 1 recording: what was activated by hand stays, and so does what is newer or has fewer failed segments; `voiceforge replay activate 6f1c1a52` shows them this run's"]
            .assert_eq(&note(&run_of("auto", 2, 0)).unwrap());
        expect!["readers see other transcripts of 3 recordings: it was to be activated by hand; `voiceforge replay activate 6f1c1a52` shows them this run's"]
            .assert_eq(&note(&run_of("manual", 0, 0)).unwrap());
    }

    #[test]
    fn how_far_a_run_is_fits_a_line() {
        let mut progress: RunProgress = serde_json::from_value(json!({
            "share": 0.5, "selected": 12, "requested": 8, "complete": 5, "failed": 0, "cancelled": 0, "activated": 0,
            "skipped": {}, "audio_s": 7200.0, "ended_audio_s": 3600.0, "speed": null, "eta_s": null,
        }))
        .unwrap();
        assert_eq!(stand(&progress), "5 of 12 recordings, 1:00:00 of 2:00:00");
        progress.failed = 1;
        progress.skipped = BTreeMap::from([("audio_gone".to_owned(), 2), ("deleted".to_owned(), 1)]);
        progress.eta_s = Some(95.0);
        assert_eq!(
            stand(&progress),
            "5 of 12 recordings, 1:00:00 of 2:00:00, 1 failed, 3 skipped, 1:35 left"
        );
    }
}
