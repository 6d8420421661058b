//! A run: a deployment under load, faults on a seeded schedule, and the verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checker;
use super::deployment::{Deployment, SEGMENTS_IN_HAND, SESSIONS_MAX};
use super::fault::{Row, Schedule};
use super::history::Offer;
use super::inject::{Recorder, inject};
use super::load::{Load, Pace};
use super::rebuild::{self, Way};
use super::report::{Line, Report};
use super::survey;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides the faults and the recordings.
    pub seed: u64,
    /// How long faults are done: ten a minute, and at least one of each kind.
    pub length: Duration,
    /// Rows to choose from; empty for all.
    pub rows: Vec<Row>,
    /// Folder with clips of speech.
    pub clips: PathBuf,
}

/// Connections that may be on their way out as they are counted.
const CONNECTIONS_MORE: usize = 4;

/// How long a deployment that nobody harms any more may take to end all its work: a lease, the keeper's pauses, and a
/// machine that others use too.
const SETTLE_PATIENCE: Duration = Duration::from_secs(240);

/// Runs once. With violations, the folder of the deployment is kept and named.
///
/// # Errors
/// When the harness itself cannot go on.
pub async fn run(options: &Options) -> Result<Report> {
    let deployment = Arc::new(Deployment::start(&[]).await?);
    let recorder = Arc::new(Recorder::new());
    let outcome = harm_and_judge(options, &deployment, &recorder).await;
    let kept = !outcome.as_ref().is_ok_and(Report::is_good);
    deployment.stop(kept).await;
    outcome
}

async fn harm_and_judge(
    options: &Options,
    deployment: &Arc<Deployment>,
    recorder: &Arc<Recorder>,
) -> Result<Report> {
    let connections = deployment.to_redis.open();
    let pace = Pace { every: Duration::from_millis(500), patience: Duration::from_secs(60) };
    let load = Load::start(Arc::clone(deployment), &options.clips, options.seed, pace, recorder.began)?;
    let schedule = Schedule::new(&options.rows);
    let kinds = schedule.kinds().to_vec();
    let faults = harm(options, schedule, deployment, recorder).await?;
    let offers = load.finish().await?;
    deployment.crew.ready(SETTLE_PATIENCE).await.context("wait for the programs after the last fault")?;

    let healed = Instant::now();
    let mut recorded = recorder.recorded();
    let mut left = survey::settle(deployment, &offers, &recorded, SETTLE_PATIENCE).await?;
    let settled_ms = healed.elapsed().as_millis() as u64;
    let (to_redis, to_postgres) = (deployment.to_redis.open(), deployment.to_postgres.open());
    if to_redis > connections + CONNECTIONS_MORE || to_postgres > SESSIONS_MAX {
        left.push(format!(
            "{to_redis} connections to Redis, {connections} before; {to_postgres} to PostgreSQL"
        ));
    }
    // A rebuild compares every row with those that serve, and what is read below is what it made.
    let rebuilt = rebuild::reproject(deployment, Way::Straight, None).await?;
    if !rebuilt.status.success() {
        let said = String::from_utf8_lossy(&rebuilt.stderr) + String::from_utf8_lossy(&rebuilt.stdout);
        left.push(format!("a rebuild is not what serves ({}): {}", rebuilt.status, said.trim()));
    }
    recorded.offers = offers;
    recorded.faults = faults.len() as u64;
    recorded.in_hand = SEGMENTS_IN_HAND;
    let observed = survey::observe(deployment, left).await?;
    let verdict = checker::judge(&recorded, &observed);
    let count = |is: fn(&Offer) -> bool| recorded.offers.iter().filter(|offer| is(offer)).count();
    Ok(Report {
        seed: options.seed,
        seconds: options.length.as_secs(),
        faults,
        kinds,
        offered: recorded.offers.len(),
        accepted: count(|offer| offer.accepted_ms().is_some()),
        deleted: count(|offer| offer.deleted_ms().is_some()),
        replayed: count(|offer| offer.was_replayed()),
        facts: observed.archive.len(),
        losses: recorded.losses.iter().map(|loss| loss.facts).collect(),
        settled_ms,
        verdict,
    })
}

/// Begins faults evenly over the time; those that harm different things overlap.
async fn harm(
    options: &Options,
    mut schedule: Schedule,
    deployment: &Arc<Deployment>,
    recorder: &Arc<Recorder>,
) -> Result<Vec<Line>> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut running = tokio::task::JoinSet::new();
    let faults = schedule.faults_in(options.length);
    let gap = options.length / faults.max(1);
    for _ in 0..faults {
        tokio::time::sleep(gap.mul_f64(random.random_range(0.5..1.5))).await;
        let fault = schedule.next(&mut random);
        let (deployment, recorder) = (Arc::clone(deployment), Arc::clone(recorder));
        running.spawn(async move {
            let from_ms = recorder.now_ms();
            let came = inject(&fault, &deployment, &recorder).await.with_context(|| format!("{fault:?}"))?;
            let (kind, what) = (fault.kind(), format!("{fault:?}"));
            anyhow::Ok(Line { from_ms, to_ms: recorder.now_ms(), kind, what, came })
        });
    }
    let mut lines = Vec::new();
    while let Some(ended) = running.join_next().await {
        lines.push(ended.context("do a fault")??);
    }
    lines.sort_by_key(|line| line.from_ms);
    Ok(lines)
}

/// The folder of clips that tests are told of, or `None`, said plainly.
pub fn clips() -> Option<PathBuf> {
    let folder = std::env::var_os("VOICEFORGE_TEST_CLIPS").map(PathBuf::from);
    match folder {
        Some(folder) if folder.is_dir() && has_programs(&cli::stack::programs_folder()) => Some(folder),
        Some(_) => {
            println!("skipped: the programs or the clips are not there; `cargo xtask test` makes both");
            None
        }
        None => {
            println!("skipped: VOICEFORGE_TEST_CLIPS is not set");
            None
        }
    }
}

fn has_programs(folder: &Path) -> bool {
    cli::stack::Program::STAGES.iter().all(|program| folder.join(format!("voiceforge-{program}")).is_file())
}
