//! The engine behind the line protocol of `cargo xtask bench engines`, so that it is driven as its rivals are.
//!
//! `bench_engine MODEL_FOLDER '{"threads": 2, "precision": "int8"}'` says `{"ready": SECONDS}` with what it is once the
//! model is loaded, then reads lines
//! `{"id": 1, "path": "16 kHz mono.wav", "options": {"beam": 1, "timestamps": true, "language": "en", "trim": false,
//! "ladder": false, "speech": false}}` and answers each, as it is done, with `{"id": 1, "text": "...", "seconds": SINCE_IT_WAS_READ,
//! "trimmed": WINDOWS, "reread": WINDOWS}` or `{"id": 1, "error": "..."}`. It ends with its input.

use std::io::BufRead;
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures::executor::block_on;
use futures::future::try_join_all;
use infer::cpu::Precision;
use infer::engine::Setup;
use infer::features::SAMPLE_RATE;
use infer::scheduler::URGENT;
use infer::{Engine, Options, Output, trim};
use serde_json::{Value, json};

/// Requests in hand at once: as many as the engine has places.
const CONCURRENT: usize = 8;
/// Samples of the longest window, and of its end where it may be cut: 30 s and 5 s.
const WINDOW: usize = 480_000;
const TAIL: usize = 80_000;
/// Samples of one piece whose loudness is judged: 20 ms.
const PIECE: usize = 320;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, settings] = &arguments[..] else { anyhow::bail!("name a model folder and settings") };
    let settings: Value = serde_json::from_str(settings).context("read the settings")?;
    let threads = settings["threads"].as_u64().unwrap_or(0) as usize;
    let precision = settings["precision"].as_str().and_then(Precision::of).unwrap_or_default();
    let begun = Instant::now();
    let engine = Engine::load(
        Path::new(folder),
        Setup { precision, threads, segments: CONCURRENT, ..Setup::default() },
    )?;
    let ready = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({
            "ready": ready, "sha256": engine.info().sha256, "margin": trim::MARGIN,
            "positions_min": trim::POSITIONS_MIN,
        })
    );
    let (sender, receiver) = mpsc::channel();
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT {
            scope.spawn(|| {
                loop {
                    // Locked only while a request is taken: the guard ends with the statement.
                    let taken = receiver.lock().expect("no worker panics with the lock").recv();
                    let Ok((came, request)) = taken else { return };
                    println!("{}", answer(&engine, &request, came));
                }
            });
        }
        for line in std::io::stdin().lock().lines() {
            let request = serde_json::from_str(&line?).context("read a request")?;
            sender.send((Instant::now(), request))?;
        }
        drop(sender);
        Ok(())
    })
}

fn answer(engine: &Engine, request: &Value, came: Instant) -> Value {
    let read = || -> Result<Vec<Output>> {
        let pcm = read_wav(Path::new(request["path"].as_str().context("find `path`")?))?;
        transcribe(engine, &windows(&pcm), &request["options"])
    };
    match read() {
        Ok(outputs) => {
            let count = |of: fn(&Output) -> usize| outputs.iter().map(of).sum::<usize>();
            let spans = outputs.iter().flat_map(|output| &output.spans);
            let text = spans.map(|span| span.text.as_str()).collect::<String>();
            json!({
                "id": request["id"], "text": text.trim(), "seconds": came.elapsed().as_secs_f64(),
                "trimmed": count(|output| output.trimmed), "reread": count(|output| output.reread),
            })
        }
        Err(error) => json!({"id": request["id"], "error": format!("{error:#}")}),
    }
}

/// What is said in the windows of one recording: every call of the engine, besides loading it.
fn transcribe(engine: &Engine, windows: &[&[i16]], options: &Value) -> Result<Vec<Output>> {
    let (ladder, is_speech) = (options["ladder"] == true, options["speech"] == true);
    let options = Options {
        beams: options["beam"].as_u64().context("find `beam`")? as usize,
        trim: options["trim"] == true,
        language: options["language"].as_str().map(str::to_owned),
        temperatures: if ladder { Options::default().temperatures } else { vec![0.0] },
        timestamps: options["timestamps"] == true,
        ..Options::default()
    };
    let reads = windows.iter().map(|window| {
        // Somebody speaks all the time.
        let all = 0..(window.len() / (SAMPLE_RATE / 1_000)) as u64;
        let speech = if is_speech { vec![all] } else { Vec::new() };
        engine.transcribe((*window).into(), Options { speech, ..options.clone() }, URGENT)
    });
    Ok(block_on(try_join_all(reads))?)
}

/// Parts of at most 30 s, cut at the quietest 20 ms of the last 5 s.
fn windows(pcm: &[i16]) -> Vec<&[i16]> {
    let mut windows = Vec::new();
    let mut rest = pcm;
    while rest.len() > WINDOW {
        let loudness = |piece: &[i16]| piece.iter().map(|x| i64::from(*x).pow(2)).sum::<i64>();
        let pieces = rest[WINDOW - TAIL..WINDOW].chunks_exact(PIECE).map(loudness).enumerate();
        let quietest = pieces.min_by_key(|(_, loudness)| *loudness).map_or(0, |(index, _)| index);
        let (window, left) = rest.split_at(WINDOW - TAIL + quietest * PIECE);
        windows.push(window);
        rest = left;
    }
    windows.push(rest);
    windows
}

/// The samples of a WAV file with the plain header of 44 bytes, as the measurement writes it.
fn read_wav(file: &Path) -> Result<Vec<i16>> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let plain =
        bytes.len() >= 44 && bytes[20..28] == [1, 0, 1, 0, 0x80, 0x3e, 0, 0] && bytes[36..40] == *b"data";
    ensure!(plain, "{} is not a plain WAV file of 16 kHz, mono, 16 bit", file.display());
    Ok(bytes[44..].as_chunks().0.iter().map(|x| i16::from_le_bytes(*x)).collect())
}
