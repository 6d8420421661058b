//! The pipeline's own latency: how long a short recording takes from the answer to its drop until its transcript is
//! read, less what decoding and the model take of it.
//!
//! Recordings go one after another, so what the programs' own numbers grow by in between is this recording's. The facts
//! in the archive tell when each step was done; all programs read the same clock.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cli::stack::Program;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::numbers::Sorted;
use super::private::Private;
use super::scrape;
use crate::faults::sound::Voices;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Recordings of each way to wait.
    pub drops: usize,
    /// Recordings before those that count.
    pub warm_up: usize,
    /// Clips of speech to make recordings of.
    pub clips: PathBuf,
}

/// The median and the 95th percentile that are to be reached, in milliseconds.
const TARGETS_MS: [f64; 2] = [30.0, 80.0];
/// Seconds of speech in a recording.
const SECONDS: std::ops::RangeInclusive<usize> = 2..=5;

/// How a client waits for its transcript.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// `GET /v1/recordings/{id}?wait=30s`, then the transcript.
    Wait,
    /// The transcript, again and again, each 3 ms after the answer before.
    Poll,
}

impl Way {
    fn what(self) -> &'static str {
        match self {
            Way::Wait => "waits with `?wait`, then reads",
            Way::Poll => "asks again and again, 3 ms after each answer",
        }
    }
}

/// One recording, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Drop {
    way: Way,
    recording: Uuid,
    /// From before the POST to its answer.
    post: f64,
    /// From the answer until the transcript was read whole.
    answered: f64,
    /// What decode spent on reading, resampling and finding speech.
    decode: f64,
    /// What the model spent.
    model: f64,
    sent_at: Timestamp,
    answered_at: Timestamp,
    read_at: Timestamp,
}

impl Drop {
    fn own(&self) -> f64 {
        self.answered - self.decode - self.model
    }
}

/// Measures; returns the body of the page.
///
/// # Errors
/// When a recording is not transcribed.
pub async fn run(options: &Options) -> Result<String> {
    let voices = Voices::read(&options.clips)?;
    let private = Private::start(&[("API_RATE", "100000"), ("API_BURST", "100000")]).await?;
    let drops = offer(&private, &voices, options).await?;
    let steps = steps(&private.stack.database_url(), &drops).await?;
    private.stop().await;
    Ok(body(&drops, &steps))
}

async fn offer(private: &Private, voices: &Voices, options: &Options) -> Result<Vec<Drop>> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).tcp_nodelay(true).build()?;
    let client = Client { http, url: private.stack.api_url(), private };
    let mut random = StdRng::seed_from_u64(11);
    let mut drops = Vec::new();
    for number in 0..options.warm_up + 2 * options.drops {
        let wav = voices.make_of(&mut random, SECONDS);
        let way = if number.is_multiple_of(2) { Way::Wait } else { Way::Poll };
        let drop = client.drop(wav, way).await.with_context(|| format!("recording {number}"))?;
        if number >= options.warm_up {
            drops.push(drop);
        }
        // So that recordings fall into no step with anything that happens every so often.
        tokio::time::sleep(Duration::from_micros(random.random_range(5_000..60_000))).await;
    }
    Ok(drops)
}

struct Client<'a> {
    http: reqwest::Client,
    url: String,
    private: &'a Private,
}

impl Client<'_> {
    async fn drop(&self, wav: Vec<u8>, way: Way) -> Result<Drop> {
        let before = self.spent().await?;
        let (sent, sent_at) = (Instant::now(), Timestamp::now());
        let url = format!("{}/v1/recordings?lane=rt", self.url);
        let answer = self.http.post(url).header("content-type", "audio/wav").body(wav).send().await?;
        let status = answer.status();
        let body = answer.text().await?;
        let (answered, answered_at) = (Instant::now(), Timestamp::now());
        ensure!(status.as_u16() == 202, "{status}: {body}");
        let body: Value = serde_json::from_str(&body)?;
        let id = body["drop_id"].as_str().context("the answer names the drop")?;
        let transcript = match way {
            Way::Wait => {
                let url = format!("{}/v1/recordings/{id}?wait=30s", self.url);
                self.http.get(url).send().await?.bytes().await?;
                self.transcript(id).await?
            }
            Way::Poll => loop {
                if let Some(transcript) = self.transcript(id).await? {
                    break Some(transcript);
                }
                ensure!(answered.elapsed() < Duration::from_secs(30), "no transcript after 30 s");
                tokio::time::sleep(Duration::from_millis(3)).await;
            },
        };
        let (read, read_at) = (Instant::now(), Timestamp::now());
        let transcript: Value = serde_json::from_str(&transcript.context("it waited in vain")?)?;
        ensure!(
            transcript["segments"].as_array().is_some_and(|segments| !segments.is_empty()),
            "{transcript}"
        );
        let after = self.spent().await?;
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        Ok(Drop {
            way,
            recording: transcript["recording"].as_str().context("it names its recording")?.parse()?,
            post: ms(sent, answered),
            answered: ms(answered, read),
            decode: after[0] - before[0],
            model: after[1] - before[1],
            sent_at,
            answered_at,
            read_at,
        })
    }

    /// Returns the transcript once it is complete.
    async fn transcript(&self, id: &str) -> Result<Option<String>> {
        let url = format!("{}/v1/recordings/{id}/transcript", self.url);
        let answer = self.http.get(url).send().await?;
        let complete = answer.headers().get("x-voiceforge-status").is_some_and(|status| status == "complete");
        let text = answer.text().await?;
        Ok(complete.then_some(text))
    }

    /// Milliseconds that decode and the model have worked so far, as they say themselves.
    async fn spent(&self) -> Result<[f64; 2]> {
        let decode = scrape::metrics(&self.http, self.private.admin(Program::Decode)?).await?;
        let infer = scrape::metrics(&self.http, self.private.admin(Program::Infer)?).await?;
        Ok([
            scrape::total(&decode, "decode_work_seconds_sum") * 1e3,
            scrape::total(&infer, "infer_segment_seconds_sum") * 1e3,
        ])
    }
}

/// When the steps of a recording were done, by the facts about it.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    submitted: Option<Timestamp>,
    admitted: Option<Timestamp>,
    decoded: Option<Timestamp>,
    transcribed: Option<Timestamp>,
}

async fn steps(database: &str, drops: &[Drop]) -> Result<HashMap<Uuid, Steps>> {
    let mut connection = PgConnection::connect(database).await.context("connect to the archive")?;
    let ids: Vec<Uuid> = drops.iter().map(|drop| drop.recording).collect();
    let rows: Vec<(Uuid, String, i64, i64)> = sqlx::query_as(
        "SELECT recording, type, (extract(epoch FROM max(occurred_at)) * 1e6)::bigint, \
         (extract(epoch FROM max(submitted_at)) * 1e6)::bigint \
         FROM log.events WHERE recording = ANY($1) GROUP BY recording, type",
    )
    .bind(ids)
    .fetch_all(&mut connection)
    .await
    .context("read the archive")?;
    let mut steps: HashMap<Uuid, Steps> = HashMap::new();
    for (recording, kind, at, submitted) in rows {
        let at = Timestamp::from_microsecond(at)?;
        let steps = steps.entry(recording).or_default();
        steps.submitted = Some(Timestamp::from_microsecond(submitted)?);
        match kind.as_str() {
            "RecordingAdmitted" => steps.admitted = Some(at),
            "RecordingDecoded" => steps.decoded = Some(at),
            "SegmentTranscribed" => steps.transcribed = Some(at),
            _ => {}
        }
    }
    Ok(steps)
}

fn body(drops: &[Drop], steps: &HashMap<Uuid, Steps>) -> String {
    let mut text = format!(
        "{} recordings of {} to {} s of speech (WAV, 16 kHz) through the API on lane rt, one after another, on programs, Redis and \
         PostgreSQL of their\nown, durable as `voiceforge up` starts them (the append-only file synced each second, commits \
         synced, audio synced before\nthe answer). The model hashes the speech.\n\nOwn latency: from the answer to the POST \
         until the transcript is complete and read, less the time that decode and the\nmodel worked on this recording, by \
         their own numbers (`decode_work_seconds`, `infer_segment_seconds`). Milliseconds.\n\n",
        drops.len(),
        SECONDS.start(),
        SECONDS.end()
    );
    text += "| | mean | p50 | p95 | p99 |\n|---|--:|--:|--:|--:|\n";
    let row = |text: &mut String, name: &str, values: Sorted| {
        let [mean, p50, p95, p99] = [values.mean(), values.median(), values.at(0.95), values.at(0.99)];
        let _ = writeln!(text, "| {name} | {mean:.1} | {p50:.1} | {p95:.1} | {p99:.1} |");
    };
    let of =
        |values: &mut dyn FnMut(&Drop) -> Option<f64>| Sorted::of(drops.iter().filter_map(values).collect());
    for way in [Way::Wait, Way::Poll] {
        let own = of(&mut |drop| (drop.way == way).then(|| drop.own()));
        row(&mut text, &format!("**own latency**, client {}", way.what()), own);
    }
    row(&mut text, "the same, of all", of(&mut |drop| Some(drop.own())));
    row(&mut text, "decode's work", of(&mut |drop| Some(drop.decode)));
    row(&mut text, "the model's work", of(&mut |drop| Some(drop.model)));
    row(&mut text, "answer to transcript, all in", of(&mut |drop| Some(drop.answered)));
    row(&mut text, "the POST itself: audio and manifest on disk", of(&mut |drop| Some(drop.post)));
    row(&mut text, "from before the POST, all in", of(&mut |drop| Some(drop.post + drop.answered)));

    let own = of(&mut |drop| (drop.way == Way::Wait).then(|| drop.own()));
    text += "\n";
    for (name, share, target) in [("p50", 0.5, TARGETS_MS[0]), ("p95", 0.95, TARGETS_MS[1])] {
        let value = own.at(share);
        let said = if value < target {
            format!("met, with {:.1} ms to spare", target - value)
        } else {
            format!("missed by {:.1} ms", value - target)
        };
        let _ = writeln!(text, "Target {name} under {target:.0} ms: {value:.1} ms, {said}.");
    }

    text += "\nWhere the time goes, by the times of the facts, decode's and the model's work included:\n\n\
             | from | to | mean | p50 | p95 | p99 |\n|---|---|--:|--:|--:|--:|\n";
    type Leg = fn(&Drop, &Steps) -> Option<(Timestamp, Timestamp)>;
    let legs: [(&str, &str, Leg); 6] = [
        ("POST sent", "drop taken in, its audio on disk", |drop, steps| {
            Some((drop.sent_at, steps.submitted?))
        }),
        ("drop taken in", "POST answered", |drop, steps| Some((steps.submitted?, drop.answered_at))),
        ("POST answered", "admitted by ingest", |drop, steps| Some((drop.answered_at, steps.admitted?))),
        ("admitted", "decoded", |_, steps| Some((steps.admitted?, steps.decoded?))),
        ("admitted", "transcribed", |_, steps| Some((steps.admitted?, steps.transcribed?))),
        ("decoded and transcribed", "read by the client", |drop, steps| {
            Some((steps.decoded?.max(steps.transcribed?), drop.read_at))
        }),
    ];
    for (from, to, leg) in legs {
        let values = of(&mut |drop| {
            let (from, to) = leg(drop, steps.get(&drop.recording)?)?;
            Some((to.as_microsecond() - from.as_microsecond()) as f64 / 1e3)
        });
        row(&mut text, &format!("{from} | {to}"), values);
    }
    text
}
