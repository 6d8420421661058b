//! `voiceforge reproject`: builds the read side anew. It speaks to PostgreSQL and Redis itself, as the stages do.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Subcommand};
use project::reproject::{self, Options, Rebuilt, Step};
use serde_json::json;
use streams::SharedLog;
use streams::redis::RedisLog;
use tokio::sync::watch;
use views::{Projection, Schema, Stand, Unlike, Views};

use crate::config::Config;
use crate::out;
use crate::progress::{Meter, Progress, clock};

/// What to build, or what to tell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What else to do.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Tell which versions there are and how far a rebuild is
    #[arg(long, conflicts_with_all = ["verify_only", "accept_differences", "events_per_second"])]
    pub status: bool,
    /// Build and compare, and leave the switch to a later run
    #[arg(long)]
    pub verify_only: bool,
    /// Switch although rows differ from what serves now, as they do when a release folds differently
    #[arg(long)]
    pub accept_differences: bool,
    /// Fold at most so many facts in a second, to leave room for live traffic
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub events_per_second: Option<u32>,
    /// Address of PostgreSQL (default: VOICEFORGE_DATABASE_URL, else that of what `voiceforge up` runs here)
    #[arg(long, value_name = "URL", global = true)]
    pub database_url: Option<String>,
    /// Address of Redis (default: VOICEFORGE_REDIS_URL, else that of what `voiceforge up` runs here)
    #[arg(long, value_name = "URL", global = true)]
    pub redis_url: Option<String>,
    /// Tell it as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What else can be done with versions.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Drop a version that was replaced, or one that was never finished
    Drop {
        /// Its name, as `--status` tells
        version: Schema,
    },
}

const EXAMPLES: &str = "\
Everything is folded again, from the archive and then the log, into the next version of the tables, while \
the present one serves. Then every row is compared, readers are switched in one moment, and the old version \
stays until it is dropped. Ctrl-C or a crash loses nothing: the same command goes on where it was.

The exit code is 0 when the new version serves, else 1.

Examples:
  voiceforge reproject
  voiceforge reproject --events-per-second 500
  voiceforge reproject --status
  voiceforge reproject drop read_v1";

/// Runs it.
///
/// # Errors
/// As the database and Redis say, and when a fact cannot be folded.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let options = Options {
        events_per_second: arguments.events_per_second,
        verify_only: arguments.verify_only,
        accept_differences: arguments.accept_differences,
        ..Options::default()
    };
    let pool = views::Options {
        max_connections: 2 * options.parallel as u32 + 1,
        // A page of a rebuild takes its time on a loaded server.
        statement_timeout: Duration::from_secs(300),
        application_name: "voiceforge-reproject".to_owned(),
        ..views::Options::default()
    };
    let views = Views::connect(&config.database(arguments.database_url.as_deref())?, &pool)
        .await
        .context("connect to the database (VOICEFORGE_DATABASE_URL)")?;
    let redis = config.redis(arguments.redis_url.as_deref())?;
    let log = RedisLog::connect(streams::redis::Config::new(redis, config.shards))
        .await
        .context("connect to Redis (VOICEFORGE_REDIS_URL)")?;
    let log: SharedLog = Arc::new(log);
    let done = act(&views, log, arguments, options).await;
    views.close().await;
    done
}

async fn act(
    views: &Views,
    log: SharedLog,
    arguments: Arguments,
    options: Options,
) -> anyhow::Result<ExitCode> {
    if let Some(Action::Drop { version }) = &arguments.action {
        reproject::drop_version(views, &log, version).await?;
        eprintln!("dropped {version}");
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.status {
        tell_status(views, &log, arguments.json).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (tell, progress) = watch::channel(reproject::Progress::default());
    let showing = tokio::spawn(show(progress, Progress::new().begin("reproject")));
    let verify_only = options.verify_only;
    let rebuilt = reproject::run(views.clone(), log, options, tell).await;
    // It ends with the rebuild, which held the other end.
    let _ = showing.await;
    let rebuilt = rebuilt?;
    report(&rebuilt, verify_only, arguments.json)?;
    let good = rebuilt.serves || verify_only && rebuilt.different == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn tell_status(views: &Views, log: &SharedLog, json: bool) -> anyhow::Result<()> {
    let versions = views.projections().await.context("ask for the versions of the read side")?;
    let running = reproject::is_running(log).await?;
    let (folded, total) = match views.building().await? {
        Some(building) => {
            let positions = building.positions().await?;
            let checkpoints = views.checkpoints().await?;
            let folded: u64 = positions.values().map(|position| position.events).sum();
            let total: u64 = checkpoints.iter().map(|checkpoint| checkpoint.applied).sum();
            (folded, total)
        }
        None => (0, 0),
    };
    if json {
        let versions: Vec<_> = versions
            .iter()
            .map(|version| {
                json!({
                    "version": version.schema.to_string(),
                    "state": version.stand.as_str(),
                    "layout": version.layout,
                    "made_at": version.created_at.to_string(),
                    "serving_at": version.serving_at.map(|at| at.to_string()),
                    "replaced_at": version.replaced_at.map(|at| at.to_string()),
                })
            })
            .collect();
        let report = json!({
            "running": running, "folded": folded, "archived": total, "versions": versions,
        });
        return out::line(&report.to_string());
    }
    let mut rows =
        vec![["version", "state", "made", "serving since", "replaced"].map(str::to_owned).to_vec()];
    rows.extend(versions.iter().map(row));
    out::table(&rows)?;
    if versions.iter().any(|version| version.stand == Stand::Building) {
        let share = 100.0 * folded as f64 / total.max(1) as f64;
        let state = if running {
            "a rebuild runs"
        } else {
            "no rebuild runs; `voiceforge reproject` goes on with it"
        };
        out::line(&format!(
            "{state}: {folded} of {total} archived facts folded ({:.0} %)",
            share.min(100.0)
        ))?;
    }
    Ok(())
}

fn row(version: &Projection) -> Vec<String> {
    let second = |at: Option<&dyn std::fmt::Display>| {
        at.map_or("-".to_owned(), |at| {
            at.to_string().split(['.', 'Z']).next().unwrap_or_default().replace('T', " ")
        })
    };
    vec![
        version.schema.to_string(),
        version.stand.as_str().to_owned(),
        second(Some(&version.created_at)),
        second(version.serving_at.as_ref().map(|at| at as _)),
        second(version.replaced_at.as_ref().map(|at| at as _)),
    ]
}

/// Shows how far the rebuild is until it ends.
async fn show(mut progress: watch::Receiver<reproject::Progress>, meter: Meter) {
    // The rate of the last seconds counts: facts differ, and so does the load.
    let mut looks: std::collections::VecDeque<(Instant, u64)> = std::collections::VecDeque::new();
    let mut every = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            _ = every.tick() => {}
        }
        every.tick().await;
        let now = progress.borrow_and_update().clone();
        looks.push_back((Instant::now(), now.folded));
        if looks.len() > 40 {
            looks.pop_front();
        }
        let (since, before) = looks[0];
        let rate = (now.folded - before) as f64 / since.elapsed().as_secs_f64().max(0.001);
        let share = now.folded as f64 / now.total.max(1) as f64;
        meter.share(now.step.as_str(), share, &text(&now, rate));
    }
}

fn text(progress: &reproject::Progress, rate: f64) -> String {
    let step = progress.step.as_str();
    match progress.step {
        Step::Archive if rate >= 1.0 => {
            let left = progress.total.saturating_sub(progress.folded);
            format!(
                "{step}: {} of {} facts, {rate:.0} a second, {} left",
                progress.folded,
                progress.total,
                clock(left as f64 / rate)
            )
        }
        Step::Archive => format!("{step}: {} of {} facts", progress.folded, progress.total),
        Step::Verify => format!("{step}: about {}", progress.compared),
        _ => step.to_owned(),
    }
}

fn report(rebuilt: &Rebuilt, verify_only: bool, json: bool) -> anyhow::Result<()> {
    let Rebuilt { schema, replaced, serves, differences, different, folded, taken_over } = rebuilt;
    if json {
        let report = json!({
            "version": schema.to_string(),
            "replaced": replaced.as_ref().filter(|_| *serves).map(Schema::to_string),
            "serves": serves,
            "folded": folded,
            "taken_over": taken_over,
            "different": different,
            "differences": differences.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        return out::line(&report.to_string());
    }
    for difference in differences {
        out::line(&difference.to_string())?;
    }
    if *different > differences.len() as u64 {
        out::line(&format!("... and {} more", different - differences.len() as u64))?;
    }
    if *taken_over > 0 {
        eprintln!(
            "{taken_over} recordings were taken over as they stood: their events are older than events are kept"
        );
    }
    let lost = match differences.iter().any(|difference| difference.how == Unlike::OnlyOld) {
        true => " (rows that only the old version has are lost by that)",
        false => "",
    };
    match (serves, replaced) {
        (true, Some(old)) => eprintln!(
            "{schema} serves; {old} stays as it was: look around, then `voiceforge reproject drop {old}`"
        ),
        (true, None) => eprintln!("{schema} serves; there was nothing to compare it with"),
        (false, Some(old)) if *different > 0 => eprintln!(
            "{old} goes on serving: {different} rows of {schema} differ from it. If they are right in {schema}, switch \
             with `voiceforge reproject --accept-differences`{lost}; else `voiceforge reproject drop {schema}`"
        ),
        (false, _) if verify_only => {
            eprintln!("{schema} is built and every row is the same; `voiceforge reproject` switches to it")
        }
        (false, _) => eprintln!("{schema} is built"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_rate_and_rest() {
        let mut progress =
            reproject::Progress { folded: 500, total: 2_000, ..reproject::Progress::default() };
        progress.step = Step::Archive;
        assert_eq!(text(&progress, 0.0), "folding the archive: 500 of 2000 facts");
        assert_eq!(text(&progress, 25.0), "folding the archive: 500 of 2000 facts, 25 a second, 1:00 left");
        (progress.step, progress.compared) = (Step::Verify, 4_000);
        assert_eq!(text(&progress, 0.0), "comparing rows: about 4000");
    }
}
