//! `voiceforge reproject` on a deployment under harm.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::deployment::{Deployment, SHARDS};

/// Phases of a rebuild in which it can be made to die.
pub const PHASES: [&str; 6] = [
    "reproject.archive",
    "reproject.log",
    "reproject.verify",
    "reproject.switch",
    "reproject.switched",
    "reproject.drop",
];

/// Which servers it is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over the lines, which may be bad.
    Lines,
    /// Past them.
    Straight,
}

/// How long a rebuild may take. One that hangs is killed, which it must survive too.
const PATIENCE: Duration = Duration::from_secs(120);

/// Builds the read side anew; dies at a phase if told to. The output is that of the program, however it ended.
///
/// # Errors
/// When the program cannot be started, or does not end in time.
pub async fn reproject(deployment: &Deployment, way: Way, dies_at: Option<&str>) -> Result<Output> {
    run(deployment, way, &["reproject"], dies_at).await
}

/// Drops every version of the read side that was replaced; dies in the middle if told to. The outputs are those of the
/// program, however it ended.
///
/// # Errors
/// When the program cannot be started, or does not end in time.
pub async fn drop_old(deployment: &Deployment, way: Way, dies_at: Option<&str>) -> Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for version in versions(deployment, way, "old").await? {
        outputs.push(run(deployment, way, &["reproject", "drop", &version], dies_at).await?);
    }
    Ok(outputs)
}

/// The version of the read side that serves; none where the program has no answer.
///
/// # Errors
/// When the program cannot be started, or does not end in time.
pub async fn serving(deployment: &Deployment, way: Way) -> Result<Option<String>> {
    Ok(versions(deployment, way, "serving").await?.pop())
}

/// The versions of the read side in a state. Under harm there may be no answer, and then there are none.
async fn versions(deployment: &Deployment, way: Way, state: &str) -> Result<Vec<String>> {
    let status = run(deployment, way, &["reproject", "--status", "--json"], None).await?;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
    let versions = status["versions"].as_array().into_iter().flatten();
    let of_state = versions.filter(|version| version["state"] == state);
    Ok(of_state.filter_map(|version| Some(version["version"].as_str()?.to_owned())).collect())
}

async fn run(deployment: &Deployment, way: Way, words: &[&str], dies_at: Option<&str>) -> Result<Output> {
    let (database, redis) = match way {
        Way::Lines => (deployment.database_url.clone(), format!("redis://{}", deployment.to_redis.address())),
        Way::Straight => (deployment.postgres.lock().await.url(), deployment.redis.lock().await.url()),
    };
    let mut command = Command::new(cli::stack::programs_folder().join("voiceforge"));
    command
        .args(words)
        .args(["--database-url", &database, "--redis-url", &redis])
        .env("VOICEFORGE_SHARDS", SHARDS.to_string())
        .kill_on_drop(true);
    if let Some(point) = dies_at {
        command.env("VOICEFORGE_FAIL_AT", point);
    }
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    output.context("wait for voiceforge reproject")?.context("start voiceforge; build all programs first")
}
