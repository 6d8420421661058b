//! How many transcripts a second the API gives over HTTP, and how long a reader waits at half of that.
//!
//! The load comes from threads that each have one keep-alive connection and write prepared bytes: on a machine with few
//! processors a costly client would measure itself.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cli::stack::Program;
use events::Tenant;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sqlx::Connection;
use views::{Entry, Views};

use super::numbers::{Schedule, Sorted};
use super::private::Private;
use super::processes;
use crate::talk::{Shape, Talk};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Recordings to choose from.
    pub recordings: usize,
    /// Connections of the load.
    pub lines: usize,
    /// Rounds, each at full speed and then at half of it.
    pub rounds: usize,
    /// How long each takes.
    pub length: Duration,
}

/// Reads a second at half of the highest rate.
const TARGET_PER_SECOND: f64 = 2_000.0;
const SHAPE: Shape = Shape { segments: 10, words: 75, shards: 1 };

/// Measures; returns the body of the page.
///
/// # Errors
/// When an answer is not the transcript.
pub async fn run(options: &Options) -> Result<String> {
    let private = Private::start(&[("API_RATE", "100000"), ("API_BURST", "100000")]).await?;
    let requests = Arc::new(fill(&private, options.recordings).await?);
    let programs = Programs {
        api: private.pid(Program::Api)?,
        postgres: private.pid(Program::Postgres)?,
        redis: private.pid(Program::Redis)?,
    };
    let options = *options;
    let measured = tokio::task::spawn_blocking(move || measure(&requests, &programs, &options)).await?;
    private.stop().await;
    measured
}

/// The bytes of one request for each recording, and where they go.
struct Requests {
    address: SocketAddr,
    bytes: Vec<Vec<u8>>,
    /// Bytes of an answer's body, over all of them.
    mean_body: usize,
}

/// Fills the read side and makes a key.
async fn fill(private: &Private, recordings: usize) -> Result<Requests> {
    let database = private.stack.database_url();
    let views = Views::connect(&database, &views::Options::default()).await?;
    let key = views.create_key(&Tenant::default(), "figures", false).await?.secret;
    let mut talk = Talk::new(SHAPE);
    let mut ids = Vec::new();
    while ids.len() < recordings {
        let mut entries = Vec::new();
        for _ in 0..50.min(recordings - ids.len()) {
            let facts = talk.recording();
            ids.extend(facts.first().map(|fact| fact.recording));
            entries.extend(facts.iter().map(Entry::of).collect::<Result<Vec<_>, _>>()?);
        }
        views.apply(&entries).await?;
    }
    views.close().await;
    let mut connection = sqlx::PgConnection::connect(&database).await?;
    // What the server does with new rows after a while is not to happen in the middle.
    for chore in ["VACUUM (ANALYZE)", "CHECKPOINT"] {
        sqlx::query(chore).execute(&mut connection).await.with_context(|| chore)?;
    }
    let url = private.stack.api_url();
    let address: SocketAddr = url.strip_prefix("http://").context("the API has an address")?.parse()?;
    let request = |id: &events::RecordingId| {
        format!(
            "GET /v1/recordings/{id}/transcript HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n\r\n"
        )
        .into_bytes()
    };
    let bytes: Vec<Vec<u8>> = ids.iter().map(request).collect();
    let mut line = Line::open(address)?;
    let mut sum = 0;
    for bytes in &bytes {
        let body = line.ask(bytes)?;
        sum += body.len();
        let transcript: Value = serde_json::from_slice(body).context("read a transcript")?;
        let segments = transcript["segments"].as_array().context("a transcript has segments")?;
        let words = segments.iter().flat_map(|segment| segment["spans"].as_array()).flatten();
        let words: usize = words.filter_map(|span| span["words"].as_array()).map(Vec::len).sum();
        ensure!(transcript["status"] == "complete", "{}", transcript["status"]);
        ensure!(segments.len() == SHAPE.segments as usize, "{} segments", segments.len());
        ensure!(words == SHAPE.words * SHAPE.segments as usize, "{words} words");
    }
    Ok(Requests { address, mean_body: sum / bytes.len().max(1), bytes })
}

/// Whose processor time is told.
struct Programs {
    api: u32,
    postgres: u32,
    redis: u32,
}

impl Programs {
    /// Seconds of the API, PostgreSQL, Redis and the load.
    fn spent(&self) -> [f64; 4] {
        [
            processes::spent_s(self.api),
            processes::spent_with_children_s(self.postgres),
            processes::spent_s(self.redis),
            processes::spent_s(std::process::id()),
        ]
    }
}

/// What one round gave.
struct Round {
    per_second: f64,
    /// Milliseconds from the moment a request was due, or sent, until its answer was read.
    waits: Vec<f64>,
    /// Microseconds of processor time for each request: the API, PostgreSQL, Redis, the load.
    spent: [f64; 4],
}

fn measure(requests: &Arc<Requests>, programs: &Programs, options: &Options) -> Result<String> {
    // What is loaded at first use, and the connections to the database, are there afterwards.
    load(requests, options, None, programs)?;
    let mut full = Vec::new();
    let mut half = Vec::new();
    for number in 1..=options.rounds {
        let round = load(requests, options, None, programs)?;
        eprintln!("  round {number}: {:.0} a second at full speed", round.per_second);
        full.push(round);
    }
    let highest = Sorted::of(full.iter().map(|round| round.per_second).collect()).median();
    for number in 1..=options.rounds {
        let round = load(requests, options, Some(highest / 2.0), programs)?;
        let waits = Sorted::of(round.waits.clone());
        eprintln!("  round {number}: p99 {:.1} ms at {:.0} a second", waits.at(0.99), round.per_second);
        half.push(round);
    }
    Ok(body(requests, options, &full, &half, highest))
}

/// Asks from all lines: as fast as answers come, or `per_second`, whatever the answers do.
fn load(
    requests: &Arc<Requests>,
    options: &Options,
    per_second: Option<f64>,
    programs: &Programs,
) -> Result<Round> {
    let schedule = per_second.map(|per_second| Schedule { per_second, lines: options.lines });
    let mut lines = Vec::new();
    for _ in 0..options.lines {
        lines.push(Line::open(requests.address)?);
    }
    let before = programs.spent();
    let begun = Instant::now();
    let threads: Vec<_> = lines
        .into_iter()
        .enumerate()
        .map(|(number, line)| {
            let (requests, length) = (Arc::clone(requests), options.length);
            std::thread::spawn(move || ask_all(line, number, &requests, begun, length, schedule))
        })
        .collect();
    let mut waits = Vec::new();
    for thread in threads {
        let asked = thread.join().map_err(|_| anyhow::anyhow!("a line of the load panicked"))?;
        waits.extend(asked?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = programs.spent();
    let count = waits.len() as f64;
    let spent = std::array::from_fn(|at| (after[at] - before[at]) / count * 1e6);
    Ok(Round { per_second: count / seconds, waits, spent })
}

/// One line's requests; returns how long each took, in milliseconds.
fn ask_all(
    mut line: Line,
    number: usize,
    requests: &Requests,
    begun: Instant,
    length: Duration,
    schedule: Option<Schedule>,
) -> Result<Vec<f64>> {
    let mut random = StdRng::seed_from_u64(number as u64);
    let mut waits = Vec::new();
    loop {
        let since = match schedule {
            None => Instant::now(),
            // One that waits for the answer before it is late, and that counts as its own waiting.
            Some(schedule) => begun + schedule.due(number, waits.len()),
        };
        if since.duration_since(begun) >= length {
            return Ok(waits);
        }
        std::thread::sleep(since.saturating_duration_since(Instant::now()));
        line.ask(&requests.bytes[random.random_range(0..requests.bytes.len())])?;
        waits.push(since.elapsed().as_secs_f64() * 1e3);
    }
}

/// A keep-alive connection.
struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    fn open(address: SocketAddr) -> Result<Line> {
        let stream = TcpStream::connect(address).context("connect to the API")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Line { stream, buffer: vec![0; 1 << 20] })
    }

    /// Sends a request and reads its answer; returns the body.
    fn ask(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).context("send a request")?;
        let mut length = 0;
        let (head, end) = loop {
            let more = self.stream.read(&mut self.buffer[length..]).context("read an answer")?;
            ensure!(more > 0, "the API closed the connection after {length} bytes of an answer");
            length += more;
            if let Some((head, body)) = parse_head(&self.buffer[..length])? {
                break (head, head + body);
            }
        };
        ensure!(end <= self.buffer.len(), "an answer of {end} bytes");
        if length < end {
            self.stream.read_exact(&mut self.buffer[length..end]).context("read an answer")?;
        }
        Ok(&self.buffer[head..end])
    }
}

/// The lengths of a good answer's head and body, once the head is whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("not a good answer: {head}");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok(Some((end + 4, length.context("an answer without its length")?)))
}

fn body(requests: &Requests, options: &Options, full: &[Round], half: &[Round], highest: f64) -> String {
    let rounds = |rounds: &[Round], of: &dyn Fn(&Round) -> f64| Sorted::of(rounds.iter().map(of).collect());
    let mut text = format!(
        "`GET /v1/recordings/{{id}}/transcript` of {} segments with {} words each, every word with its times ({} KB of JSON), \
         chosen at random\nout of {} recordings, over loopback on {} keep-alive connections, with an API key. One API, \
         one PostgreSQL; the limit\nof requests for each key is set out of the way (`--api-rate`). Load, API and PostgreSQL share \
         the machine.\n\n",
        SHAPE.segments,
        SHAPE.words,
        requests.mean_body / 1000,
        requests.bytes.len(),
        options.lines,
    );
    let rates = rounds(full, &|round| round.per_second);
    let _ = writeln!(
        text,
        "Highest rate (each connection asks again at once; median of {} rounds of {} s, lowest, highest): **{:.0}** a second \
         ({:.0}, {:.0}).\n",
        full.len(),
        options.length.as_secs(),
        highest,
        rates.at(0.0),
        rates.at(1.0),
    );
    let served = rounds(half, &|round| round.per_second).median();
    let _ = writeln!(
        text,
        "At half of it, requests at even distances whatever the answers do, each measured from the moment it was due:\n\n\
         | asked for, a second | answered, a second | p50, ms | p95, ms | p99, ms | p99.9, ms |\n|--:|--:|--:|--:|--:|--:|"
    );
    let quantile = |share: f64| rounds(half, &|round| Sorted::of(round.waits.clone()).at(share)).median();
    let _ = writeln!(
        text,
        "| {:.0} | {served:.0} | {:.2} | {:.2} | {:.2} | {:.2} |\n\nMedians of {} rounds of {} s.\n",
        highest / 2.0,
        quantile(0.5),
        quantile(0.95),
        quantile(0.99),
        quantile(0.999),
        half.len(),
        options.length.as_secs(),
    );
    text +=
        "| processor time of each request, µs | API | PostgreSQL | Redis | load |\n|---|--:|--:|--:|--:|\n";
    for (name, of) in [("at full speed", full), ("at half", half)] {
        let [api, postgres, redis, load] =
            std::array::from_fn(|at| rounds(of, &|round| round.spent[at]).median());
        let _ = writeln!(text, "| {name} | {api:.0} | {postgres:.0} | {redis:.0} | {load:.0} |");
    }
    let half_rate = highest / 2.0;
    let said = if half_rate >= TARGET_PER_SECOND {
        format!("met: {half_rate:.0}")
    } else {
        format!("missed: {half_rate:.0}, {:.0} % of it", 100.0 * half_rate / TARGET_PER_SECOND)
    };
    let _ = writeln!(text, "\nTarget {TARGET_PER_SECOND:.0} a second at half of the highest rate: {said}.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_they_are_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\nx: y\r\n\r\n{\"a\"";
        assert_eq!(parse_head(answer).unwrap(), Some((45, 17)));
        assert_eq!(parse_head(&answer[..30]).unwrap(), None);
        assert!(parse_head(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 1\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
