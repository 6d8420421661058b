//! What operators and autoscalers see: the backlog, the dead letters, and the view in the terminal.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cli::stack::{Program, Signal};
use e2e::Pipeline;
use e2e::faults::deployment::connect;
use e2e::faults::sound::expected;
use events::{Lane, Shard};
use serde_json::Value;
use streams::{Log, Queue, Source};

use crate::{PATIENCE, on_a_stack};

/// Asks for the stages' backlogs until `wanted`. They are measured once a second.
async fn stages(pipeline: &Pipeline, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (status, body) = pipeline.get("/v1/backlog").await?;
        ensure!(status == 200, "{status}: {body}");
        let report: Value = serde_json::from_str(&body)?;
        if wanted(&report["stages"]) {
            return Ok(report["stages"].clone());
        }
        ensure!(Instant::now() < until, "it does not come to this: {what}; {report}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn the_backlog_is_what_was_dropped() {
    on_a_stack(&[("VOICEFORGE_HASH_MODEL", "10ms")], |pipeline| async move {
        for program in [Program::Infer, Program::Project] {
            pipeline.stack.kill(program, Signal::SIGSTOP);
        }
        let began = Instant::now();
        let (mut segments, mut ms) = (0, 0);
        for clip in &pipeline.clips[..3] {
            pipeline.post(clip.bytes(), "model=hash").await?;
            let said = expected(&clip.bytes(), Lane::Batch)?;
            segments += said.len();
            ms += said.iter().map(|said| said.end_ms - said.start_ms).sum::<u64>();
        }
        // Of each recording: admitted, requested, decoded.
        let all =
            |stages: &Value| stages["infer"]["entries"] == segments && stages["project"]["entries"] == 9;
        let first = stages(&pipeline, "all is cut, and nothing is folded", all).await?;
        for stage in ["ingest", "decode"] {
            ensure!(first[stage]["entries"] == 0 && first[stage]["oldest_wait_seconds"].is_null(), "{first}");
        }
        let seconds = first["infer"]["audio_seconds"].as_f64().context("a number")?;
        ensure!((seconds - ms as f64 / 1000.0).abs() < 0.001, "{ms} ms of speech: {first}");
        ensure!(first["project"]["audio_seconds"] == 0.0, "{first}");
        let wait = |stages: &Value| stages["infer"]["oldest_wait_seconds"].as_f64().unwrap_or(-1.0);
        let waited = wait(&first);
        ensure!((0.0..=began.elapsed().as_secs_f64()).contains(&waited), "{first}");
        let later = stages(&pipeline, "it waits longer", |stages| wait(stages) >= waited + 2.0).await?;
        ensure!(wait(&later) <= began.elapsed().as_secs_f64(), "{later}");
        for program in [Program::Infer, Program::Project] {
            pipeline.stack.kill(program, Signal::SIGCONT);
        }
        pipeline.settled(PATIENCE).await?;
        let nothing = |stages: &Value| {
            let stage =
                |name: &str| stages[name]["entries"] == 0 && stages[name]["oldest_wait_seconds"].is_null();
            ["ingest", "decode", "infer", "project"].into_iter().all(stage)
        };
        let end = stages(&pipeline, "nothing waits", nothing).await?;
        ensure!(end["infer"]["audio_seconds"] == 0.0, "{end}");
        Ok(pipeline)
    });
}

/// What `voiceforge` writes; it must end well.
async fn voiceforge(pipeline: &Pipeline, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(cli::stack::programs_folder().join("voiceforge"));
    command.args(arguments).args(["--server", pipeline.stack.api_url().as_str()]);
    let output = command.output().await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "voiceforge {arguments:?}: {told}");
    Ok(String::from_utf8(output.stdout)?)
}

async fn letters(pipeline: &Pipeline) -> Result<Vec<Value>> {
    let listed = voiceforge(pipeline, &["dead", "ls", "--json"]).await?;
    listed.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn dead_letters_are_listed_shown_replayed_and_dropped_and_top_fits_a_terminal() {
    on_a_stack(&[("VOICEFORGE_HASH_MODEL", "10ms")], |pipeline| async move {
        let queue = |queue| Source::Queue(Shard(0), queue, Lane::Batch);
        pipeline.stack.kill(Program::Decode, Signal::SIGSTOP);
        let drop = pipeline.post(pipeline.clips[0].bytes(), "model=hash&name=talk").await?;
        let until = Instant::now() + PATIENCE;
        while pipeline.log.backlog(queue(Queue::Decode)).await?.entries == 0 {
            ensure!(Instant::now() < until, "nothing was admitted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let url = pipeline.stack.redis_url();
        let mut redis = connect(&url).await?;
        let mut command = redis::cmd("XRANGE");
        command.arg(queue(Queue::Decode).key()).arg("-").arg("+");
        let waiting: redis::streams::StreamRangeReply = command.query_async(&mut redis).await?;
        let request: String = waiting.ids.first().and_then(|entry| entry.get("event")).context("work")?;
        // Sound work where nobody can do it, and two entries that are no events.
        for (queue, event) in [
            (queue(Queue::Segments), request.as_str()),
            (queue(Queue::Segments), "{\"type\":\"SegmentCut\""),
            (queue(Queue::Decode), "no event"),
        ] {
            let mut plant = redis::cmd("XADD");
            plant.arg(queue.key()).arg("*").arg("event_id").arg("planted").arg("event").arg(event);
            plant.exec_async(&mut redis).await?;
        }
        pipeline.stack.kill(Program::Decode, Signal::SIGCONT);
        let recording = pipeline.ended(&drop, PATIENCE).await?;
        pipeline.settled(PATIENCE).await?;
        let text = pipeline.text(&recording).await?;

        let listed = voiceforge(&pipeline, &["dead", "ls"]).await?;
        let given_up = letters(&pipeline).await?;
        let ids: Vec<&str> = given_up.iter().filter_map(|letter| letter["id"].as_str()).collect();
        ensure!(ids.len() == 3 && listed.lines().count() == 4, "a head and a line each: {listed}");
        ensure!(ids.iter().all(|id| listed.contains(id)), "{listed}");
        let of_decode = voiceforge(&pipeline, &["dead", "ls", "--stage", "decode", "--json"]).await?;
        ensure!(of_decode.lines().count() == 1 && of_decode.contains("malformed_event"), "{of_decode}");
        let top = voiceforge(&pipeline, &["top", "--once"]).await?;
        ensure!(top.contains("dead letters 3  (voiceforge dead ls)"), "{top}");
        ensure!(top.lines().all(|line| line.chars().count() <= 80), "{top}");
        for stage in ["ingest", "decode", "infer", "project"] {
            ensure!(top.lines().any(|line| line.starts_with(stage)), "{stage} is seen: {top}");
        }

        let misled = given_up.iter().find(|letter| letter["code"] == "wrong_queue").context("misled work")?;
        let misled = misled["id"].as_str().context("an id")?;
        let shown: Value = serde_json::from_str(&voiceforge(&pipeline, &["dead", "show", misled]).await?)?;
        ensure!(shown["recording"] == recording["id"] && shown["stage"] == "infer", "{shown}");
        ensure!(shown["original"]["event"]["type"] == "TranscriptionRequested", "{shown}");
        let others: Vec<&str> = ids.iter().copied().filter(|id| *id != misled).collect();
        let refused = voiceforge(&pipeline, &["dead", "replay", others[0]]).await;
        ensure!(refused.as_ref().is_err_and(|told| told.to_string().contains("no event")), "{refused:?}");

        let appended = async || -> Result<u64> {
            let survey: Value = serde_json::from_str(&voiceforge(&pipeline, &["top", "--json"]).await?)?;
            survey["log"]["appended"].as_u64().context("a number")
        };
        let before = appended().await?;
        let replayed = voiceforge(&pipeline, &["dead", "replay", misled]).await?;
        ensure!(replayed.contains("requested in round 1"), "{replayed}");
        let until = Instant::now() + PATIENCE;
        // Requested, decoded, and a segment at least.
        while appended().await? < before + 3 {
            ensure!(Instant::now() < until, "nothing came of it");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        pipeline.settled(PATIENCE).await?;
        let again = pipeline.ended(&drop, PATIENCE).await?;
        ensure!(again["status"] == "complete" && pipeline.text(&again).await? == text, "{again}");

        let left = letters(&pipeline).await?;
        ensure!(left.len() == 2 && left.iter().all(|letter| letter["id"] != misled), "{left:?}");
        voiceforge(&pipeline, &["dead", "drop", others[0], "--yes"]).await?;
        ensure!(letters(&pipeline).await?.len() == 1);
        voiceforge(&pipeline, &["dead", "drop", "--all", "--yes"]).await?;
        ensure!(letters(&pipeline).await?.is_empty() && pipeline.dead_letters().await? == 0);
        Ok(pipeline)
    });
}
