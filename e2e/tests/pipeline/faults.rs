//! Programs and servers die at their work: every accepted recording still ends with exactly one right transcript.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use cli::stack::{Program, Signal};
use e2e::{Clip, Pipeline};

use crate::{PATIENCE, on_a_stack};

/// What each clip gives when nothing goes wrong. Equal work gives equal text, so this is what must come in any case.
async fn undisturbed(pipeline: &Pipeline, clips: &[Clip]) -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for (name, recording) in finish(pipeline, drop_all(pipeline, clips, "undisturbed").await?).await? {
        texts.insert(name, pipeline.text(&recording).await?);
    }
    Ok(texts)
}

/// Drops every clip, half through the API and half straight into Redis, under keys of `round`, so that each is a
/// recording of its own. What is not accepted while a server is down is offered again, as a client would.
async fn drop_all(pipeline: &Pipeline, clips: &[Clip], round: &str) -> Result<Vec<(String, String)>> {
    let mut drops = Vec::new();
    for (at, clip) in clips.iter().enumerate() {
        let key = format!("{round}-{}", clip.name());
        let drop = loop {
            let accepted = if at % 2 == 0 {
                pipeline.post(clip.bytes(), &format!("name={}&key={key}", clip.name())).await
            } else {
                pipeline.drop(&clip.bytes(), &[("name", &clip.name()), ("key", &key)]).await
            };
            match accepted {
                Ok(drop) => break drop,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        drops.push((clip.name(), drop));
    }
    Ok(drops)
}

async fn finish(
    pipeline: &Pipeline,
    drops: Vec<(String, String)>,
) -> Result<Vec<(String, serde_json::Value)>> {
    let mut ended = Vec::new();
    for (name, drop) in drops {
        let recording = pipeline.ended(&drop, PATIENCE).await?;
        ensure!(recording["status"] == "complete", "{name}: {recording}");
        ended.push((name, recording));
    }
    Ok(ended)
}

/// Drops clips, does `harm` while they are worked on, and checks that all is as if nothing had happened.
async fn survives<F, Fut>(pipeline: &Pipeline, round: &str, harm: F) -> Result<()>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let clips = &pipeline.clips[..6.min(pipeline.clips.len())];
    let right = undisturbed(pipeline, clips).await?;
    let drops = drop_all(pipeline, clips, round).await?;
    harm().await?;
    let ended = finish(pipeline, drops).await?;
    let mut ids = Vec::new();
    for (name, recording) in ended {
        ensure!(pipeline.text(&recording).await? == right[&name], "{name} came out differently");
        ids.push(recording["id"].as_str().unwrap_or_default().to_owned());
    }
    ids.sort();
    ids.dedup();
    ensure!(ids.len() == clips.len(), "each drop is one recording: {ids:?}");
    pipeline.settled(PATIENCE).await?;
    ensure!(pipeline.dead_letters().await? == 0, "nothing goes to the dead letters");
    Ok(())
}

#[test]
fn kill_9_of_each_program_at_work() {
    on_a_stack(&[], |pipeline| async move {
        survives(&pipeline, "killed", || async {
            for program in Program::STAGES {
                pipeline.kill(program);
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            Ok(())
        })
        .await?;
        Ok(pipeline)
    });
}

#[test]
fn sigterm_of_each_program_under_load() {
    on_a_stack(&[], |pipeline| async move {
        survives(&pipeline, "stopped", || async {
            for program in Program::STAGES {
                pipeline.stack.kill(program, Signal::SIGTERM);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Ok(())
        })
        .await?;
        Ok(pipeline)
    });
}

#[test]
fn redis_is_restarted_and_killed_at_work() {
    on_a_stack(&[], |pipeline| async move {
        survives(&pipeline, "redis", || async {
            pipeline.stack.restart(Program::Redis).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            pipeline.kill(Program::Redis);
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        })
        .await?;
        Ok(pipeline)
    });
}

#[test]
fn postgres_is_restarted_and_killed_at_work() {
    on_a_stack(&[], |pipeline| async move {
        survives(&pipeline, "postgres", || async {
            pipeline.stack.restart(Program::Postgres).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            pipeline.kill(Program::Postgres);
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(())
        })
        .await?;
        Ok(pipeline)
    });
}

/// What the API accepted is on disk: when Redis loses everything, the keeper hands it in again.
#[test]
fn an_accepted_drop_outlives_a_redis_that_lost_everything() {
    let quick = [("VOICEFORGE_MISSING_AFTER", "2s"), ("VOICEFORGE_KEEPER_EVERY", "1s")];
    on_a_stack(&quick, |pipeline| async move {
        pipeline.stack.kill(Program::Ingest, Signal::SIGSTOP);
        let clip = pipeline.clips[0].clone();
        let drop = pipeline.post(clip.bytes(), "name=kept").await?;
        let url = pipeline.stack.redis_url();
        let flushed =
            tokio::process::Command::new("redis-cli").args(["-u", &url, "FLUSHALL"]).output().await?;
        ensure!(flushed.status.success(), "{flushed:?}");
        pipeline.stack.kill(Program::Ingest, Signal::SIGCONT);
        let recording = pipeline.ended(&drop, PATIENCE).await?;
        ensure!(recording["status"] == "complete" && recording["name"] == "kept", "{recording}");
        ensure!(!pipeline.text(&recording).await?.is_empty(), "it has its transcript");
        pipeline.settled(PATIENCE).await?;
        Ok(pipeline)
    });
}
