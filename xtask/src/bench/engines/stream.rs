//! Clips that arrive one by one at times of their own, as from many people: how long each waits for its text.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::clips::Clip;
use super::process::Process;
use super::rounds::read_all;
use super::statistics::{arrivals, percentile};
use super::subject::{Decoding, Places, Subject};
use crate::say;

/// Share of its capacity at which a rival's waiting is compared.
pub const LOAD: f64 = 0.7;
/// The wait that 95 of 100 clips may not exceed at the highest rate, seconds.
pub const WAIT_S_MAX: f64 = 1.0;
/// Halvings of the interval in which the highest rate is sought.
const HALVINGS: usize = 6;
const SEED: u64 = 4;
const DECODING: Decoding = Decoding { beam: 1, timestamps: true };

/// Waiting times of several engines under the same arrivals.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Beside {
    /// The rival whose capacity sets the rate.
    pub rival: String,
    /// Clips a second.
    pub rate: f64,
    /// Engine, and the wait in seconds that half and 95 % of the clips do not exceed.
    pub waits: Vec<(String, f64, f64)>,
}

/// Waits at 70 % of each rival's capacity (clips a second), for the rival and for each engine of ours.
pub fn beside(
    ours: &[Subject],
    rivals: &[(Subject, f64)],
    places: &Places,
    model: &str,
    clips: &[Clip],
) -> Result<Vec<Beside>> {
    let mut all = Vec::new();
    for (rival, capacity) in rivals {
        let rate = LOAD * capacity;
        let mut waits = Vec::new();
        for subject in ours.iter().chain([rival]) {
            let mut process = subject.start(places, model, DECODING)?;
            read_all(&mut process, &clips[..1])?;
            let seconds = run(&mut process, clips, rate, None)?;
            let (half, most) = (percentile(&seconds, 0.5), percentile(&seconds, 0.95));
            say::note(format_args!(
                "{} at {rate:.2} a second: p50 {half:.2} s, p95 {most:.2} s",
                subject.name
            ));
            waits.push((subject.name.to_owned(), half, most));
        }
        all.push(Beside { rival: rival.name.to_owned(), rate, waits });
    }
    Ok(all)
}

/// The highest rate of arrivals, clips a second, at which 95 % of the clips wait at most a second; 0 where even a
/// trickle waits longer.
pub fn highest_rate(
    subject: &Subject,
    capacity: f64,
    places: &Places,
    model: &str,
    clips: &[Clip],
) -> Result<f64> {
    let mut process = subject.start(places, model, DECODING)?;
    read_all(&mut process, &clips[..1])?;
    let (mut good, mut bad) = (0.0, capacity * 1.25);
    for _ in 0..HALVINGS {
        let rate = f64::midpoint(good, bad);
        let seconds = run(&mut process, clips, rate, Some(WAIT_S_MAX))?;
        let holds = percentile(&seconds, 0.95) <= WAIT_S_MAX && seconds.len() == clips.len();
        *(if holds { &mut good } else { &mut bad }) = rate;
    }
    say::note(format_args!("{}: p95 under {WAIT_S_MAX} s up to {good:.2} clips a second", subject.name));
    Ok(good)
}

/// Hands in each clip at its time; returns how long each waited, counted from when it should have come. Stops handing
/// in once more than 5 % have waited longer than `limit`: the rate is too high then, whatever follows.
fn run(process: &mut Process, clips: &[Clip], rate: f64, limit: Option<f64>) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let due: Vec<Instant> =
        arrivals(rate, clips.len(), SEED).into_iter().map(|at| begun + Duration::from_secs_f64(at)).collect();
    let late_max = clips.len() / 20;
    let (mut seconds, mut late, mut sent) = (Vec::new(), 0, 0);
    while seconds.len() < sent || (sent < clips.len() && late <= late_max) {
        let answer = if sent < clips.len() && late <= late_max {
            if Instant::now() >= due[sent] {
                process.submit(sent, &clips[sent])?;
                sent += 1;
                continue;
            }
            process.wait_until(due[sent])?
        } else {
            Some(process.wait()?)
        };
        if let Some(answer) = answer {
            let came = due.get(answer.id).context("find the clip of an answer")?;
            let waited = answer.at.saturating_duration_since(*came).as_secs_f64();
            late += usize::from(limit.is_some_and(|limit| waited > limit));
            seconds.push(waited);
        }
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::json;

    use super::*;

    #[test]
    fn waits_are_counted_from_arrival() {
        // Reads a clip in 20 ms, one after the other.
        let script = r#"echo '{"ready": 0}'; while read line; do id=${line#*\"id\":}; sleep 0.02
                        echo "{\"id\": ${id%%,*}, \"text\": \"\"}"; done"#;
        let mut process = Process::start(Command::new("sh").args(["-c", script]), json!({})).unwrap();
        let clips = vec![Clip { wav: "a.wav".into(), text: String::new(), seconds: 1.0 }; 20];
        let seldom = run(&mut process, &clips, 10.0, None).unwrap();
        assert_eq!(seldom.len(), 20);
        assert!(seldom.iter().all(|wait| *wait > 0.02), "{seldom:?}");
        // All at once: the last waits for all.
        let rush = run(&mut process, &clips, 1e6, None).unwrap();
        assert!(percentile(&rush, 1.0) > 0.4, "{rush:?}");
        // Given up once two of twenty are late.
        let given_up = run(&mut process, &clips, 10.0, Some(0.001)).unwrap();
        assert!(given_up.len() < 20, "{given_up:?}");
    }
}
