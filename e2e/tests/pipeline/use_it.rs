//! Dropping and reading, in the ways the README shows.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{Clip, word_errors};
use serde_json::Value;

use crate::{PATIENCE, on_a_stack};

/// The words tiny.en may get wrong in a hundred, over all that a test transcribes: it gets 4 to 7 wrong on these clips.
const ERRORS_PER_100: usize = 12;

fn assert_right(heard: &[(Clip, String)]) {
    let words: usize = heard.iter().map(|(clip, _)| clip.text.split_whitespace().count()).sum();
    let errors: usize = heard.iter().map(|(clip, text)| word_errors(&clip.text, text)).sum();
    assert!(errors * 100 <= words * ERRORS_PER_100, "{errors} of {words} words wrong: {heard:?}");
}

#[test]
fn a_clip_from_redis_cli_to_every_format() {
    on_a_stack(&[], |pipeline| async move {
        let clip = pipeline.clips[0].clone();
        let mut command = Command::new("redis-cli");
        command.args([
            "-u",
            &pipeline.stack.redis_url(),
            "-x",
            "XADD",
            "vf:ingest",
            "*",
            "name",
            "talk.mp3",
            "audio",
        ]);
        let dropped = command.stdin(std::fs::File::open(&clip.path)?).stderr(Stdio::inherit()).output()?;
        let drop = String::from_utf8(dropped.stdout)?.trim().to_owned();
        ensure!(dropped.status.success() && drop.contains('-'), "redis-cli answered {drop:?}");

        let recording = pipeline.ended(&drop, PATIENCE).await?;
        assert_eq!(recording["status"], "complete", "{recording}");
        assert_eq!(recording["name"], "talk.mp3");
        let text = pipeline.text(&recording).await?;
        assert_right(&[(clip.clone(), text.clone())]);

        let id = recording["id"].as_str().context("an id")?;
        let path = |format: &str| format!("/v1/recordings/{id}/transcript?format={format}");
        let (_, srt) = pipeline.get(&path("srt")).await?;
        assert!(srt.starts_with("1\n00:00:") && srt.contains(" --> "), "{srt}");
        let (_, vtt) = pipeline.get(&path("vtt")).await?;
        assert!(vtt.starts_with("WEBVTT\n"), "{vtt}");
        let (_, json) = pipeline.get(&path("json")).await?;
        let json: Value = serde_json::from_str(&json)?;
        assert!(json["segments"].as_array().is_some_and(|segments| !segments.is_empty()), "{json}");

        let word = text.split_whitespace().max_by_key(|word| word.len()).unwrap_or_default();
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        let (status, hits) = pipeline.get(&format!("/v1/search?q={word}")).await?;
        assert!(status == 200 && hits.contains(id), "searching {word}: {hits}");

        // The same bytes again are the same recording.
        let again = pipeline.drop(&clip.bytes(), &[("name", "talk.mp3")]).await?;
        assert_eq!(pipeline.ended(&again, PATIENCE).await?["id"], recording["id"]);
        pipeline.settled(PATIENCE).await?;
        assert_eq!(pipeline.dead_letters().await?, 0);
        Ok(pipeline)
    });
}

#[test]
fn many_clips_through_the_api_and_a_long_one_in_parts() {
    on_a_stack(&[], |pipeline| async move {
        let mut drops = Vec::new();
        for clip in pipeline.clips.clone().into_iter().take(8) {
            let drop = pipeline.post(clip.bytes(), &format!("name={}", clip.name())).await?;
            drops.push((clip, drop));
        }
        let mut heard = Vec::new();
        for (clip, drop) in drops {
            let recording = pipeline.ended(&drop, PATIENCE).await?;
            assert_eq!(recording["status"], "complete", "{recording}");
            assert_eq!(recording["name"], clip.name());
            let text = pipeline.text(&recording).await?;
            heard.push((clip, text));
        }
        assert_right(&heard);
        let (status, list) = pipeline.get("/v1/recordings?limit=3").await?;
        let list: Value = serde_json::from_str(&list)?;
        assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(3)), "{list}");
        assert!(list["next"].is_string(), "{list}");
        pipeline.settled(PATIENCE).await?;
        Ok(pipeline)
    });
}

/// Standard output is the transcript alone; its id stands beside the progress.
#[test]
fn the_command_line_tells_the_id_beside_the_transcript() {
    on_a_stack(&[], |pipeline| async move {
        let clip = pipeline.clips[0].clone();
        let voiceforge = cli::stack::programs_folder().join("voiceforge");
        let server = ["--server".to_owned(), pipeline.stack.api_url()];
        let mut drop = tokio::process::Command::new(&voiceforge);
        let dropped = drop.arg("drop").arg(&clip.path).arg("--wait").args(&server).output().await?;
        let told = String::from_utf8(dropped.stderr)?;
        ensure!(dropped.status.success(), "{told}");
        let text = String::from_utf8(dropped.stdout)?;
        assert_right(&[(clip, text.clone())]);

        let id = told.lines().find_map(|line| line.split_once(": recording ")).context("an id")?.1;
        let mut get = tokio::process::Command::new(&voiceforge);
        let got = get.args(["get", id]).args(&server).output().await?;
        assert_eq!(String::from_utf8(got.stdout)?, text);
        Ok(pipeline)
    });
}

/// The official client of OpenAI's API transcribes a clip and understands errors.
#[test]
fn the_openai_package_understands_us() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/openai_client.py");
    let Some(python) = std::env::var_os("VOICEFORGE_TEST_PYTHON") else {
        println!("skipped: VOICEFORGE_TEST_PYTHON is not set");
        return;
    };
    on_a_stack(&[], |pipeline| async move {
        let clip = pipeline.clips[0].clone();
        let mut command = tokio::process::Command::new(python);
        command.arg(script).arg(format!("{}/v1", pipeline.stack.api_url())).arg(&clip.path).arg(&clip.text);
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        pipeline.settled(PATIENCE).await?;
        Ok(pipeline)
    });
}

#[test]
fn exit_codes_of_a_program_that_is_set_up_wrongly() -> Result<()> {
    let programs = cli::stack::programs_folder();
    for program in ["voiceforge-ingest", "voiceforge-decode", "voiceforge-infer", "voiceforge-project"] {
        let wrong = ["--redis-url=nonsense", "--shards=many", "--log-format=prose"];
        let output = Command::new(programs.join(program)).args(wrong).output().context(program)?;
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{program}: {told}");
        for mistake in ["redis-url", "shards", "log-format"] {
            assert!(told.contains(mistake), "{program} tells every mistake at once: {told}");
        }
    }
    Ok(())
}
