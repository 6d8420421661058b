//! A deployment to harm by hand, and what tests of single rows do with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cli::stack::Program;
use e2e::faults::crew::Name;
use e2e::faults::history::{Attempt, Observed, Offer, Reply, Way};
use e2e::faults::inject::{Injected, Recorder, inject};
use e2e::faults::sound::{self, Voices};
use e2e::faults::{Deployment, Fault, checker, load, run, survey};
use events::Lane;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

/// How long anything may take on a machine that others use too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A deployment and what was done with it.
pub struct Bench {
    pub deployment: Arc<Deployment>,
    pub recorder: Arc<Recorder>,
    pub offers: Vec<Offer>,
    /// How many keys were given out: also those of offers that a test has taken out have been used.
    keys: usize,
    voices: Voices,
    random: StdRng,
    http: reqwest::Client,
}

/// Runs a test on a deployment of its own, whose workers have `variables` besides; skips where there are no clips, and
/// where all tests run.
pub fn on_a_bench<F, Fut>(variables: &[(&str, &str)], test: F)
where
    F: FnOnce(Bench) -> Fut,
    Fut: Future<Output = Result<Bench>>,
{
    if !super::is_asked_for() {
        return;
    }
    let _machine = super::machine();
    let Some(clips) = run::clips() else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let outcome = runtime.block_on(async {
        let bench = Bench {
            deployment: Arc::new(Deployment::start(variables).await?),
            recorder: Arc::new(Recorder::new()),
            offers: Vec::new(),
            keys: 0,
            voices: Voices::read(&clips)?,
            random: StdRng::seed_from_u64(1),
            http: reqwest::Client::builder().timeout(Duration::from_secs(20)).build()?,
        };
        let bench = test(bench).await?;
        bench.deployment.stop(false).await;
        anyhow::Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error:#}"));
}

impl Bench {
    /// Offers `count` recordings, each again and again until it is accepted.
    pub async fn offer(&mut self, count: usize, way: Way, lane: Lane) -> Result<()> {
        for _ in 0..count {
            let wav = self.voices.make(&mut self.random);
            let (said, said_again) = (sound::expected(&wav, lane)?, sound::expected(&wav, Lane::Replay)?);
            let key = format!("offer-{:05}", self.keys);
            self.keys += 1;
            let wav = Bytes::from(wav);
            let mut offer = Offer::new(key.clone(), way, said, said_again);
            let until = Instant::now() + PATIENCE;
            loop {
                let reply = load::offer(&self.deployment, &self.http, &key, way, lane, &wav).await;
                let accepted = matches!(reply, Reply::Accepted(_));
                ensure!(accepted || Instant::now() < until, "{key}: {reply:?}");
                offer.attempts.push(Attempt { at_ms: self.recorder.now_ms(), reply });
                if accepted {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            self.offers.push(offer);
        }
        Ok(())
    }

    /// Does a fault, which must be possible.
    pub async fn harm(&self, fault: Fault) -> Result<()> {
        self.begin(fault).await?
    }

    /// Does faults one after another while recordings come in, and checks at the end that all holds.
    pub async fn survive(&mut self, faults: Vec<Fault>) -> Result<Observed> {
        let count = faults.len() as u64;
        for (number, fault) in faults.into_iter().enumerate() {
            let (way, lane) = if number % 2 == 0 { (Way::Api, Lane::Batch) } else { (Way::Raw, Lane::Rt) };
            self.offer(1, way, lane).await?;
            let harm = self.begin(fault);
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.offer(2, way, lane).await?;
            harm.await??;
        }
        self.all_holds(count).await
    }

    /// Begins a fault.
    pub fn begin(&self, fault: Fault) -> JoinHandle<Result<()>> {
        let (deployment, recorder) = (Arc::clone(&self.deployment), Arc::clone(&self.recorder));
        tokio::spawn(async move {
            let came = inject(&fault, &deployment, &recorder).await?;
            ensure!(came == Injected::Done, "{fault:?}: {came:?}");
            Ok(())
        })
    }

    /// Waits until all work is done; fails if any invariant is broken. `faults` is how many times work may have been
    /// taken away from all infer workers.
    pub async fn all_holds(&self, faults: u64) -> Result<Observed> {
        let observed = self.observe(PATIENCE).await?;
        let mut recorded = self.recorder.recorded();
        recorded.offers.clone_from(&self.offers);
        recorded.faults = faults;
        recorded.in_hand = e2e::faults::deployment::SEGMENTS_IN_HAND;
        let verdict = checker::judge(&recorded, &observed);
        ensure!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
        Ok(observed)
    }

    /// Waits until all work is done, or `patience` is over, and reads what there is.
    pub async fn observe(&self, patience: Duration) -> Result<Observed> {
        self.deployment.crew.ready(PATIENCE).await?;
        let left =
            survey::settle(&self.deployment, &self.offers, &self.recorder.recorded(), patience).await?;
        survey::observe(&self.deployment, left).await
    }

    /// Waits until `wanted` says so.
    pub async fn until<Fut>(&self, what: &str, mut wanted: impl FnMut() -> Fut) -> Result<()>
    where
        Fut: Future<Output = Result<bool>>,
    {
        let until = Instant::now() + PATIENCE;
        while !wanted().await? {
            ensure!(Instant::now() < until, "still not so after {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// A connection to the primary.
    pub async fn redis(&self) -> Result<redis::aio::MultiplexedConnection> {
        self.deployment.redis.lock().await.connect().await
    }

    /// The sum of a worker's metric over the lines that hold all `labels`.
    pub async fn metric(&self, worker: Name, name: &str, labels: &[&str]) -> Result<u64> {
        let text = self.deployment.crew.metrics(worker).await;
        ensure!(!text.is_empty(), "{worker} tells no metrics");
        let mut sum = 0.0;
        for line in text.lines().filter(|line| line.starts_with(name)) {
            if labels.iter().all(|label| line.contains(label)) {
                let value = line.rsplit(' ').next().context("a metric has a value")?;
                sum += value.parse::<f64>().context("read a metric")?;
            }
        }
        Ok(sum as u64)
    }

    /// Who has pending entries of a stream, with how many, over all shards of a queue.
    pub async fn holders(&self, queue: &str, group: &str) -> Result<Vec<(String, u64)>> {
        let mut connection = self.redis().await?;
        let mut holders = Vec::new();
        for shard in 0..e2e::faults::deployment::SHARDS {
            let key = format!("vf:{{{shard:02}}}:{queue}");
            let pending: redis::streams::StreamPendingReply =
                redis::cmd("XPENDING").arg(key).arg(group).query_async(&mut connection).await?;
            if let redis::streams::StreamPendingReply::Data(data) = pending {
                holders.extend(data.consumers.into_iter().map(|c| (c.name, c.pending as u64)));
            }
        }
        Ok(holders)
    }
}

/// A worker's name.
pub fn worker(program: Program, number: usize) -> Name {
    Name { program, number }
}
