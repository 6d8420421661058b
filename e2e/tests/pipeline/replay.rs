//! Recordings transcribed again, while readers go on reading.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cli::stack::Program;
use e2e::Pipeline;
use events::Shard;
use serde_json::{Value, json};
use streams::Log;

use crate::{PATIENCE, on_a_stack};

/// Drops so many clips with tiny.en; returns each recording's id and what readers see of it.
async fn library(pipeline: &Pipeline, clips: usize) -> Result<BTreeMap<String, Value>> {
    let mut drops = Vec::new();
    for clip in pipeline.clips.iter().take(clips) {
        drops.push(pipeline.post(clip.bytes(), &format!("name={}&model=tiny.en", clip.name())).await?);
    }
    let mut seen = BTreeMap::new();
    for drop in drops {
        let recording = pipeline.ended(&drop, PATIENCE).await?;
        ensure!(recording["status"] == "complete", "{recording}");
        let id = recording["id"].as_str().context("an id")?.to_owned();
        let transcript = transcript(pipeline, &id, "").await?;
        seen.insert(id, transcript);
    }
    Ok(seen)
}

async fn transcript(pipeline: &Pipeline, id: &str, query: &str) -> Result<Value> {
    json_of(pipeline, &format!("/v1/recordings/{id}/transcript?{query}")).await
}

async fn json_of(pipeline: &Pipeline, path: &str) -> Result<Value> {
    let (status, body) = pipeline.get(path).await?;
    ensure!(status == 200, "{path}: {status} {body}");
    Ok(serde_json::from_str(&body)?)
}

async fn post(pipeline: &Pipeline, path: &str, body: Value) -> Result<Value> {
    let response =
        pipeline.http.post(format!("{}{path}", pipeline.stack.api_url())).json(&body).send().await?;
    let (status, body) = (response.status(), response.text().await?);
    ensure!(status.as_u16() == 202, "{path}: {status} {body}");
    Ok(serde_json::from_str(&body)?)
}

/// Asks about a run until `wanted`, and does `meanwhile` each time.
async fn watch(
    pipeline: &Pipeline,
    run: &Value,
    wanted: impl Fn(&Value) -> bool,
    mut meanwhile: impl AsyncFnMut() -> Result<()>,
) -> Result<Value> {
    let path = run["url"].as_str().context("a run has an address")?;
    let until = Instant::now() + PATIENCE;
    loop {
        let run = json_of(pipeline, path).await?;
        if wanted(&run) {
            return Ok(run);
        }
        if Instant::now() > until {
            bail!("the run did not get there: {run}");
        }
        meanwhile().await?;
        // Well below the rate that one caller may ask at, with what is done meanwhile.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn has_ended(run: &Value) -> bool {
    run["ended_at"].is_string()
}

#[test]
fn readers_see_the_old_text_until_the_new_one_is_complete_or_chosen() {
    on_a_stack(&[], |pipeline| async move {
        let old = library(&pipeline, 3).await?;
        let run = post(&pipeline, "/v1/generations", json!({"made_by": "tiny.en", "model": "base"})).await?;
        assert_eq!(run["progress"]["selected"], 3, "{run}");
        let ended = watch(&pipeline, &run, has_ended, async || {
            for (id, before) in &old {
                let now = transcript(&pipeline, id, "").await?;
                ensure!(now["status"] == "complete", "a reader saw an unfinished transcript: {now}");
                let same = now["text"] == before["text"] && now["model"] == "tiny.en";
                ensure!(now["generation"] == 1 || same, "{now}");
            }
            Ok(())
        })
        .await?;
        assert_eq!(ended["status"], "done", "{ended}");
        assert_eq!((&ended["progress"]["complete"], &ended["progress"]["share"]), (&3.into(), &1.0.into()));
        let mut new = BTreeMap::new();
        for (id, before) in &old {
            let now = transcript(&pipeline, id, "").await?;
            assert_eq!((&now["generation"], &now["model"]), (&1.into(), &"base".into()), "{now}");
            let about = json_of(&pipeline, &format!("/v1/recordings/{id}")).await?;
            assert_eq!(about["model"], "base", "{about}");
            assert_eq!(transcript(&pipeline, id, "generation=0").await?["text"], before["text"]);
            new.insert(id.clone(), now);
        }
        let listed = json_of(&pipeline, ended["compare_url"].as_str().context("an address")?).await?;
        let items = listed["items"].as_array().context("a list")?;
        let shares: Vec<f64> = items.iter().filter_map(|item| item["difference"].as_f64()).collect();
        assert!(shares.len() == 3 && shares.is_sorted_by(|a, b| a >= b), "the worst first: {listed}");
        for item in items {
            let compared = json_of(&pipeline, item["compare_url"].as_str().context("an address")?).await?;
            assert_eq!(compared["counts"]["replaced"], item["replaced"], "{compared}");
            assert!(
                compared["counts"]["rate"].as_f64() < Some(0.5),
                "two models hear much the same: {compared}"
            );
            assert!(compared["to"]["speed"].as_f64() > Some(0.0), "{compared}");
        }

        // By hand: the command makes the run and waits; nobody sees it until it is activated.
        let server = pipeline.stack.api_url().to_owned();
        let voiceforge = async |arguments: &[&str]| -> Result<String> {
            let mut command = tokio::process::Command::new(cli::stack::programs_folder().join("voiceforge"));
            let output = command.args(arguments).args(["--server", &server]).output().await?;
            let told = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "voiceforge {arguments:?}: {told}");
            Ok(String::from_utf8(output.stdout)?)
        };
        let id = new.keys().next().context("a recording")?;
        let dry = voiceforge(&["replay", "--id", id, "--dry-run"]).await?;
        assert!(dry.starts_with("1 recording, 0:"), "{dry}");
        let made = voiceforge(&[
            "replay",
            "--id",
            id,
            "--model",
            "tiny.en",
            "--activation",
            "manual",
            "--wait",
            "--json",
        ])
        .await?;
        let run: Value = serde_json::from_str(&made)?;
        assert_eq!((&run["status"], &run["progress"]["complete"]), (&"done".into(), &1.into()), "{run}");
        assert_eq!(transcript(&pipeline, id, "").await?["generation"], 1);
        let compared = voiceforge(&["compare", id]).await?;
        assert!(compared.contains("generation 1") && compared.contains("generation 2"), "{compared}");
        assert!(compared.lines().all(|line| line.chars().count() <= 80), "{compared}");
        voiceforge(&["replay", "activate", run["id"].as_str().context("an id")?]).await?;
        watch(&pipeline, &run, |run| run["progress"]["activated"] == 1, async || Ok(())).await?;
        pipeline.settled(PATIENCE).await?;
        let chosen = transcript(&pipeline, id, "").await?;
        assert_eq!(
            (&chosen["generation"], &chosen["text"]),
            (&2.into(), &old[id]["text"]),
            "equal work, equal text"
        );
        assert_eq!(pipeline.dead_letters().await?, 0);
        Ok(pipeline)
    });
}

#[test]
fn a_run_outlives_its_keeper_and_ends_when_it_is_cancelled() {
    // One recording at a time, so that there is a middle.
    let narrow = [("VOICEFORGE_REPLAY_AHEAD", "1s"), ("VOICEFORGE_RUNS_EVERY", "50ms")];
    on_a_stack(&narrow, |pipeline| async move {
        let old = library(&pipeline, 4).await?;
        let run = post(&pipeline, "/v1/generations", json!({"model": "base"})).await?;
        let some = |run: &Value| run["progress"]["requested"].as_u64() >= Some(1);
        let begun = watch(&pipeline, &run, some, async || Ok(())).await?;
        assert_ne!(begun["progress"]["requested"], 4, "it was killed too late to tell: {begun}");
        pipeline.kill(Program::Keeper);
        let ended = watch(&pipeline, &run, has_ended, async || Ok(())).await?;
        assert_eq!(
            (&ended["status"], &ended["progress"]["complete"]),
            (&"done".into(), &4.into()),
            "{ended}"
        );
        for id in old.keys() {
            let generations = json_of(&pipeline, &format!("/v1/recordings/{id}/generations")).await?;
            let numbers: Vec<_> =
                generations["items"].as_array().context("a list")?.iter().map(|g| &g["generation"]).collect();
            assert_eq!(numbers, [0, 1], "exactly one new generation each: {generations}");
        }

        // A slow run requests one recording; then it is stopped.
        let slow = json!({"model": "tiny.en", "rate": 0.001});
        let run = post(&pipeline, "/v1/generations", slow).await?;
        watch(&pipeline, &run, some, async || Ok(())).await?;
        let path = format!("{}/cancel", run["url"].as_str().context("an address")?);
        post(&pipeline, &path, json!({})).await?;
        let ended = watch(&pipeline, &run, has_ended, async || Ok(())).await?;
        assert_eq!(
            (&ended["status"], &ended["progress"]["requested"]),
            (&"cancelled".into(), &1.into()),
            "{ended}"
        );
        pipeline.settled(PATIENCE).await?;
        for id in old.keys() {
            let now = transcript(&pipeline, id, "").await?;
            ensure!(now["status"] == "complete" && now["generation"] != 3, "{now}");
        }
        assert_eq!(pipeline.dead_letters().await?, 0);
        let mut requests = 0;
        for fact in pipeline.log.facts(Shard(0), 0, 10_000).await? {
            let event: Value = serde_json::from_str(fact.text("event").context("a fact has its event")?)?;
            requests += usize::from(event["type"] == "TranscriptionRequested" && event["generation"] != 0);
        }
        assert_eq!(requests, 5, "each once");
        Ok(pipeline)
    });
}
