//! One engine as one process: requests go in as lines of JSON, answers come out as lines, in any order.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::clips::Clip;

/// The longest an engine may take to say anything while it has a request.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// A running engine. It is stopped when dropped.
pub struct Process {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<(Instant, Value)>,
    options: Value,
    /// Seconds from the start of the program to a loaded model, and of loading the model alone.
    pub start_up: f64,
    pub load: f64,
    /// The line it said then.
    pub ready: Value,
}

/// One answer.
pub struct Answer {
    pub id: usize,
    pub at: Instant,
    pub text: String,
    /// The line it said.
    pub said: Value,
}

impl Process {
    /// Starts a program and waits until its model is loaded. `options` travel with each request.
    pub fn start(command: &mut Command, options: Value) -> Result<Process> {
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
        let requests = child.stdin.take().context("find the engine's input")?;
        let output = BufReader::new(child.stdout.take().context("find the engine's output")?);
        let (sender, answers) = mpsc::channel();
        // Times are taken here, so that they do not depend on what the measurement is busy with.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // What is not JSON is a library's chatter.
                if let Ok(said) = serde_json::from_str::<Value>(&line)
                    && sender.send((Instant::now(), said)).is_err()
                {
                    return;
                }
            }
        });
        let mut process =
            Process { child, requests, answers, options, start_up: 0.0, load: 0.0, ready: Value::Null };
        let (at, said) = process.hear(SILENCE_MAX)?.context("wait for the engine to load its model")?;
        process.load = said["ready"].as_f64().context("find `ready` in the engine's first line")?;
        process.start_up = (at - begun).as_secs_f64();
        process.ready = said;
        Ok(process)
    }

    /// Hands in a clip.
    pub fn submit(&mut self, id: usize, clip: &Clip) -> Result<()> {
        let line = json!({"id": id, "path": clip.wav, "options": self.options});
        writeln!(self.requests, "{line}").and_then(|()| self.requests.flush()).context("hand in a clip")
    }

    /// The next answer; an error where there is none in time, or where the engine could not do as asked.
    pub fn wait(&mut self) -> Result<Answer> {
        self.wait_until(Instant::now() + SILENCE_MAX)?.context("wait for an answer")
    }

    /// The next answer; `None` where there is none until then.
    pub fn wait_until(&mut self, deadline: Instant) -> Result<Option<Answer>> {
        let Some((at, said)) = self.hear(deadline.saturating_duration_since(Instant::now()))? else {
            return Ok(None);
        };
        if let Some(error) = said["error"].as_str() {
            bail!("{error}");
        }
        let id = said["id"].as_u64().context("find `id` in an answer")? as usize;
        let text = said["text"].as_str().context("find `text` in an answer")?.to_owned();
        Ok(Some(Answer { id, at, text, said }))
    }

    /// The most memory it has held so far, MiB.
    pub fn peak_memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .context("read its status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("find VmHWM")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().context("read VmHWM")?;
        Ok(kibibytes / 1024.0)
    }

    /// Seconds that its threads, all together, stood ready and got no processor: others were busy.
    pub fn waited(&self) -> f64 {
        self.scheduled(1)
    }

    /// Seconds that its threads, all together, ran on a processor.
    pub fn ran(&self) -> f64 {
        self.scheduled(0)
    }

    /// A field of `schedstat` over all threads, in seconds.
    fn scheduled(&self, field: usize) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let nanoseconds = |thread: std::fs::DirEntry| -> Option<f64> {
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').nth(field)?.parse().ok()
        };
        threads.into_iter().flatten().flatten().filter_map(nanoseconds).sum::<f64>() / 1e9
    }

    fn hear(&mut self, patience: Duration) -> Result<Option<(Instant, Value)>> {
        match self.answers.recv_timeout(patience) {
            Ok(said) => Ok(Some(said)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the engine ended: {:?}", self.child.wait()?),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Process> {
        Process::start(Command::new("sh").args(["-c", script]), json!({"beam": 1}))
    }

    #[test]
    fn answers_are_paired_with_requests_and_failures_are_errors() {
        let clip = Clip { wav: "a.wav".into(), text: String::new(), seconds: 1.0 };
        let mut engine = shell(
            r#"echo chatter; echo '{"ready": 0.5}'; read line; case "$line" in *'"path":"a.wav"'*)
               echo '{"id": 3, "text": "heard"}';; esac; read line; echo '{"id": 4, "error": "too long"}'"#,
        )
        .unwrap();
        assert_eq!(engine.load, 0.5);
        assert!(engine.peak_memory().unwrap() > 0.0);
        assert!((0.0..60.0).contains(&engine.waited()) && engine.ran() > 0.0);
        assert!(engine.wait_until(Instant::now()).unwrap().is_none());
        engine.submit(3, &clip).unwrap();
        let answer = engine.wait().unwrap();
        assert_eq!((answer.id, answer.text.as_str()), (3, "heard"));
        engine.submit(4, &clip).unwrap();
        assert!(engine.wait().is_err_and(|error| error.to_string() == "too long"));
        assert!(engine.wait().is_err_and(|error| error.to_string().contains("ended")));
        assert!(shell("exit 1").is_err());
    }
}
