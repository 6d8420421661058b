//! `voiceforge top`: a live view of the queues, the log and who works.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Client;
use crate::config::Config;
use crate::out;
use crate::progress::clock;
use crate::wishes::Server;

/// How to look.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Look once and end
    #[arg(long)]
    pub once: bool,
    /// Tell it as JSON, once
    #[arg(long)]
    pub json: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub every: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
q ends it. `wait` is work nobody has taken yet, `in work` is taken and not done; `audio` is what both stand for. Rates \
are from one look to the next. With API keys in force, this takes an operator's key.

Examples:
  voiceforge top
  voiceforge top --once
  voiceforge top --json | jq .queues";

/// How a deployment stands, as the API tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Survey {
    at: String,
    queues: Vec<QueueLine>,
    log: LogLine,
    workers: Vec<WorkerLine>,
    dead_letters: u64,
    erasures: u64,
    redis_memory_bytes: u64,
    redis_memory_limit_bytes: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct QueueLine {
    queue: String,
    lane: String,
    entries: u64,
    in_progress: u64,
    audio_s: f64,
    bytes: u64,
    oldest_s: Option<f64>,
    done: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct LogLine {
    length: u64,
    appended: u64,
    archived: u64,
    groups: Vec<GroupLine>,
}

#[derive(Clone, Debug, Deserialize)]
struct GroupLine {
    group: String,
    unread: u64,
    in_progress: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct WorkerLine {
    stage: String,
    name: String,
    in_progress: u64,
    idle_s: f64,
}

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    if arguments.json {
        let survey: Value = client.get("/v1/survey", &[]).await?;
        out::line(&survey.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut now: Survey = client.get("/v1/survey", &[]).await?;
    let terminal = console::Term::stdout();
    if arguments.once || !terminal.is_term() {
        out::write(&draw(&now, None, None, 80, usize::MAX))?;
        return Ok(ExitCode::SUCCESS);
    }
    let keys = read_keys(terminal.clone());
    let screen = Screen::open()?;
    let outcome = watch(&client, &arguments, &terminal, &mut now, keys).await;
    drop(screen);
    outcome
}

async fn watch(
    client: &Client,
    arguments: &Arguments,
    terminal: &console::Term,
    now: &mut Survey,
    mut keys: tokio::sync::mpsc::UnboundedReceiver<()>,
) -> anyhow::Result<ExitCode> {
    let mut before: Option<(Survey, f64)> = None;
    let mut silence: Option<String> = None;
    let mut since = tokio::time::Instant::now();
    loop {
        let (rows, columns) = terminal.size();
        let last = before.as_ref().map(|(survey, s)| (survey, *s));
        let text = draw(now, last, silence.as_deref(), columns.into(), rows.into());
        out::write(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\r\n")))?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(arguments.every)) => {}
            _ = keys.recv() => return Ok(ExitCode::SUCCESS),
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
        match client.get::<Survey>("/v1/survey", &[]).await {
            Ok(next) => {
                let seconds = since.elapsed().as_secs_f64();
                since = tokio::time::Instant::now();
                before = Some((std::mem::replace(now, next), seconds));
                silence = None;
            }
            // A restart is waited out with the last picture standing.
            Err(error) if error.is_transient() => (before, silence) = (None, Some(error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads keys on a thread of its own until one of them says to end.
fn read_keys(terminal: console::Term) -> tokio::sync::mpsc::UnboundedReceiver<()> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        loop {
            match terminal.read_key() {
                Ok(console::Key::Char('q' | 'Q') | console::Key::Escape) | Err(_) => break,
                Ok(_) => {}
            }
        }
        // Whoever waited may be gone already.
        let _ = sender.send(());
    });
    receiver
}

/// The terminal's other screen, as long as this lives.
struct Screen;

impl Screen {
    fn open() -> anyhow::Result<Screen> {
        out::write("\x1b[?1049h\x1b[?25l")?;
        Ok(Screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        let _ = out::write("\x1b[?25h\x1b[?1049l");
    }
}

/// Draws a survey into at most `rows` lines of `columns` characters; `before` is the last one and how many seconds ago,
/// `silence` why nothing newer came.
fn draw(
    now: &Survey,
    before: Option<(&Survey, f64)>,
    silence: Option<&str>,
    columns: usize,
    rows: usize,
) -> String {
    let per_second = |now: u64, before: Option<u64>, seconds: f64| match before {
        Some(before) if seconds > 0.0 => format!("{:.1}", now.saturating_sub(before) as f64 / seconds),
        _ => "-".to_owned(),
    };
    let rate = |now_count: u64, of: &dyn Fn(&Survey) -> Option<u64>| {
        let (then, seconds) = before.map_or((None, 0.0), |(survey, seconds)| (of(survey), seconds));
        per_second(now_count, then, seconds)
    };
    let mut lines = Vec::new();
    let memory = match now.redis_memory_limit_bytes {
        Some(limit) if limit > 0 => {
            let share = now.redis_memory_bytes as f64 / limit as f64 * 100.0;
            format!("{} of {} ({share:.0} %)", bytes(now.redis_memory_bytes), bytes(limit))
        }
        _ => bytes(now.redis_memory_bytes),
    };
    let time = now.at.split('.').next().unwrap_or(&now.at).trim_end_matches('Z').replace('T', " ");
    lines.push(match silence {
        Some(error) => {
            let clock = time.split_once(' ').map_or(&*time, |(_, clock)| clock);
            format!("no answer since {clock}: {error}")
        }
        None => format!("voiceforge  {time}   redis {memory}"),
    });
    let mut notes = format!("dead letters {}", now.dead_letters);
    // Few die in a second; what is dropped or replayed meanwhile is not counted back.
    if let Some((then, seconds)) = before.filter(|(_, seconds)| *seconds > 0.0) {
        let more = now.dead_letters.saturating_sub(then.dead_letters);
        notes += &format!(" ({:.0} more a minute)", more as f64 * 60.0 / seconds);
    }
    if now.dead_letters > 0 {
        notes += "  (voiceforge dead ls)";
    }
    if now.erasures > 0 {
        notes += &format!("   being erased {}", now.erasures);
    }
    lines.push(notes);
    lines.push(String::new());
    lines.push(format!(
        "{:<18}{:>9}{:>9}{:>12}{:>9}{:>9}{:>9}",
        "queue", "wait", "in work", "audio", "speech", "oldest", "done/s"
    ));
    for queue in &now.queues {
        let same = |survey: &Survey| {
            let same = |other: &&QueueLine| (&other.queue, &other.lane) == (&queue.queue, &queue.lane);
            survey.queues.iter().find(same).map(|other| other.done)
        };
        lines.push(format!(
            "{:<18}{:>9}{:>9}{:>12}{:>9}{:>9}{:>9}",
            format!("{} {}", queue.queue, queue.lane),
            queue.entries.saturating_sub(queue.in_progress),
            queue.in_progress,
            if queue.queue == "ingest" { "-".to_owned() } else { clock(queue.audio_s) },
            if queue.bytes == 0 { "-".to_owned() } else { bytes(queue.bytes) },
            queue.oldest_s.map_or("-".to_owned(), age),
            rate(queue.done, &same),
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "log  {} facts held, {} ever ({}/s), {} archived ({}/s)",
        now.log.length,
        now.log.appended,
        rate(now.log.appended, &|survey| Some(survey.log.appended)),
        now.log.archived,
        rate(now.log.archived, &|survey| Some(survey.log.archived)),
    ));
    for group in &now.log.groups {
        lines.push(format!(
            "     read by {:<12}{:>9} unread{:>9} in work",
            group.group, group.unread, group.in_progress
        ));
    }
    lines.push(String::new());
    lines.push(format!("{:<10}{:>9}{:>9}  {}", "stage", "in work", "silent", "worker"));
    for worker in &now.workers {
        lines.push(format!(
            "{:<10}{:>9}{:>9}  {}",
            worker.stage,
            worker.in_progress,
            age(worker.idle_s),
            worker.name
        ));
    }
    if lines.len() > rows {
        let more = lines.len() + 1 - rows;
        lines.truncate(rows.saturating_sub(1));
        lines.push(format!("... and {more} lines more; `voiceforge top --once` shows all"));
    }
    let cut = |line: String| line.chars().take(columns).collect::<String>().trim_end().to_owned();
    let end = if rows == usize::MAX { "\n" } else { "" };
    lines.into_iter().map(cut).collect::<Vec<_>>().join("\n") + end
}

/// A time that passed, in at most six characters.
fn age(seconds: f64) -> String {
    match seconds as u64 {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// A size, in at most eight characters.
fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 || value >= 99.5 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use api::survey::{LogReport, QueueReport, ReaderReport, SurveyReport, WorkerReport};
    use events::Lane;
    use expect_test::expect;

    use super::*;

    /// As the API answers.
    fn survey(done: u64, appended: u64, dead_letters: u64) -> Survey {
        let queue = |queue, lane, entries: u64, in_progress, audio_s: f64| QueueReport {
            queue,
            lane,
            entries,
            in_progress,
            audio_s,
            bytes: if queue == "segments" { 960_000 * entries } else { 0 },
            oldest_s: (entries > 0).then_some(audio_s / 10.0),
            done,
        };
        let worker = |stage: &str, name: &str, in_progress, idle_s| WorkerReport {
            stage: stage.to_owned(),
            name: name.to_owned(),
            in_progress,
            idle_s,
        };
        let long = "a-host-with-quite-a-long-name-in-some-cluster:1:77aa0000-1111-2222-3333";
        let report = SurveyReport {
            at: "2026-02-03T04:05:06.789Z".parse().unwrap(),
            queues: vec![
                queue("ingest", Lane::Rt, 0, 0, 0.0),
                queue("ingest", Lane::Batch, 3, 2, 0.0),
                queue("decode", Lane::Rt, 0, 0, 0.0),
                queue("decode", Lane::Batch, 120, 2, 432_000.0),
                queue("segments", Lane::Batch, 64, 8, 1_700.5),
                queue("segments", Lane::Replay, 1_234_567, 0, 37_037_010.0),
            ],
            log: LogReport {
                length: 4_321,
                appended,
                archived: appended - 21,
                groups: vec![ReaderReport { group: "project".to_owned(), unread: 21, in_progress: 12 }],
            },
            workers: vec![worker("decode", "host-1:4242:0f3c", 2, 0.31), worker("infer", long, 8, 86_400.0)],
            dead_letters,
            erasures: 1,
            redis_memory_bytes: 123_456_789,
            redis_memory_limit_bytes: Some(2_147_483_648),
        };
        serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap()
    }

    #[test]
    fn a_survey_fits_eighty_columns() {
        let (now, before) = (survey(150, 9_000, 2), survey(100, 8_000, 1));
        let text = draw(&now, Some((&before, 2.0)), None, 80, usize::MAX);
        expect![[r#"
            voiceforge  2026-02-03 04:05:06   redis 118 MiB of 2.0 GiB (6 %)
            dead letters 2 (30 more a minute)  (voiceforge dead ls)   being erased 1

            queue                  wait  in work       audio   speech   oldest   done/s
            ingest rt                 0        0           -        -        -     25.0
            ingest batch              1        2           -        -    0.0 s     25.0
            decode rt                 0        0        0:00        -        -     25.0
            decode batch            118        2   120:00:00        -     12 h     25.0
            segments batch           56        8       28:20 58.6 MiB    2 min     25.0
            segments replay     1234567        0 10288:03:30  1.1 TiB     42 d     25.0

            log  4321 facts held, 9000 ever (500.0/s), 8979 archived (500.0/s)
                 read by project            21 unread       12 in work

            stage       in work   silent  worker
            decode            2    0.3 s  host-1:4242:0f3c
            infer             8     24 h  a-host-with-quite-a-long-name-in-some-cluster:1:77
        "#]]
        .assert_eq(&text);
        assert!(text.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn a_low_terminal_is_told_of_the_rest() {
        let text = draw(&survey(1, 100, 2), None, None, 60, 8);
        assert_eq!(text.lines().count(), 8);
        assert!(text.ends_with("`voiceforge top --once` shows all"), "{text}");
        assert!(text.contains("     -\n"), "no rate without a look before: {text}");
    }

    #[test]
    fn an_old_picture_says_since_when_it_stands_and_why() {
        let error = "cannot reach http://127.0.0.1:8080: connection refused; is the service running?";
        let text = draw(&survey(1, 100, 2), None, Some(error), 80, usize::MAX);
        expect!["no answer since 04:05:06: cannot reach http://127.0.0.1:8080: connection refused"]
            .assert_eq(text.lines().next().unwrap());
        assert!(text.contains("segments replay"), "the last picture stays: {text}");
    }

    #[test]
    fn times_and_sizes_are_short() {
        let ages = [0.0, 9.94, 59.0, 119.9, 120.0, 7200.0, 1e6].map(age);
        assert_eq!(ages, ["0.0 s", "9.9 s", "59 s", "119 s", "2 min", "2 h", "11 d"]);
        let sizes = [0, 999, 1000, 960_000, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 KiB", "938 KiB", "5.0 GiB", "16384 PiB"]);
    }
}
