//! Clients that offer recordings and note every answer.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use events::Lane;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

use super::deployment::{self, Deployment};
use super::history::{Attempt, Offer, Reply, Way};
use super::sound::{self, Voices};

/// Offers recordings until it is told to stop, then until each has been accepted or `patience` is over.
pub struct Load {
    offers: Arc<Mutex<Vec<Offer>>>,
    stop: CancellationToken,
    offering: tokio::task::JoinHandle<Result<()>>,
}

/// What a load is like.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time between two recordings.
    pub every: Duration,
    /// How long a client offers the same one.
    pub patience: Duration,
}

impl Load {
    /// Begins; times are since `began`.
    ///
    /// # Errors
    /// When there are no clips.
    pub fn start(
        deployment: Arc<Deployment>,
        clips: &Path,
        seed: u64,
        pace: Pace,
        began: Instant,
    ) -> Result<Load> {
        let voices = Voices::read(clips)?;
        let offers = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let offering = tokio::spawn(offer_all(
            deployment,
            voices,
            StdRng::seed_from_u64(seed),
            pace,
            began,
            Arc::clone(&offers),
            stop.clone(),
        ));
        Ok(Load { offers, stop, offering })
    }

    /// How many were offered so far, and how many of them accepted.
    pub fn count(&self) -> (usize, usize) {
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        (offers.len(), offers.iter().filter(|offer| offer.accepted_ms().is_some()).count())
    }

    /// Stops offering and waits for the answers still to come.
    ///
    /// # Errors
    /// When a client failed at what is not the deployment's fault.
    pub async fn finish(self) -> Result<Vec<Offer>> {
        self.stop.cancel();
        self.offering.await??;
        Ok(std::mem::take(&mut *self.offers.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

async fn offer_all(
    deployment: Arc<Deployment>,
    voices: Voices,
    mut random: StdRng,
    pace: Pace,
    began: Instant,
    offers: Arc<Mutex<Vec<Offer>>>,
    stop: CancellationToken,
) -> Result<()> {
    let voices = Arc::new(voices);
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let mut clients = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(pace.every);
    let mut number = 0_u64;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let way = if number.is_multiple_of(2) { Way::Api } else { Way::Raw };
        let lane = if number % 4 < 2 { Lane::Rt } else { Lane::Batch };
        let mut own = StdRng::from_rng(&mut random);
        let voices = Arc::clone(&voices);
        let made = tokio::task::spawn_blocking(move || {
            let wav = voices.make(&mut own);
            let said = sound::expected(&wav, lane)?;
            anyhow::Ok((wav, said))
        });
        let (wav, said) = made.await??;
        let key = format!("offer-{number:05}");
        number += 1;
        let at = {
            let mut offers = offers.lock().unwrap_or_else(PoisonError::into_inner);
            offers.push(Offer { key: key.clone(), way, said, attempts: Vec::new() });
            offers.len() - 1
        };
        let (deployment, offers, http) = (Arc::clone(&deployment), Arc::clone(&offers), http.clone());
        clients.spawn(async move {
            let wav = Bytes::from(wav);
            let until = Instant::now() + pace.patience;
            loop {
                let reply = offer(&deployment, &http, &key, way, lane, &wav).await;
                let accepted = matches!(reply, Reply::Accepted(_));
                let attempt = Attempt { at_ms: began.elapsed().as_millis() as u64, reply };
                offers.lock().unwrap_or_else(PoisonError::into_inner)[at].attempts.push(attempt);
                if accepted || Instant::now() > until {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
        });
    }
    while clients.join_next().await.is_some() {}
    Ok(())
}

/// Offers a recording once.
pub async fn offer(
    deployment: &Deployment,
    http: &reqwest::Client,
    key: &str,
    way: Way,
    lane: Lane,
    wav: &Bytes,
) -> Reply {
    match way {
        Way::Api => post(http, &deployment.api, key, lane, wav.clone()).await,
        Way::Raw => add(deployment, key, lane, wav).await,
    }
}

async fn post(http: &reqwest::Client, api: &str, key: &str, lane: Lane, wav: Bytes) -> Reply {
    let url = format!("{api}/v1/recordings?name={key}&key={key}&lane={lane}");
    match http.post(url).header("content-type", "audio/wav").body(wav).send().await {
        Err(error) if error.is_connect() => Reply::Refused(error.to_string()),
        Err(error) => Reply::Unknown(error.to_string()),
        Ok(answer) => {
            let status = answer.status();
            let body = answer.text().await.unwrap_or_default();
            let drop = serde_json::from_str::<serde_json::Value>(&body)
                .ok()
                .and_then(|body| Some(body["drop_id"].as_str()?.to_owned()));
            match (status.as_u16(), drop) {
                (202, Some(drop)) => Reply::Accepted(drop),
                // The audio may be on disk already, and then it is handed in later.
                (500.., _) | (202, None) => Reply::Unknown(format!("{status}: {body}")),
                _ => Reply::Refused(format!("{status}: {body}")),
            }
        }
    }
}

async fn add(deployment: &Deployment, key: &str, lane: Lane, wav: &Bytes) -> Reply {
    // Whoever harms Redis holds its lock; a sender asks all the same.
    let url = match deployment.redis.try_lock() {
        Ok(pair) => pair.url(),
        Err(_) => format!("redis://{}", deployment.to_redis.address()),
    };
    let mut connection = match deployment::connect(&url).await {
        Ok(connection) => connection,
        Err(error) => return Reply::Refused(format!("{error:#}")),
    };
    let mut command = redis::cmd("XADD");
    command.arg(streams::Source::Ingest(lane).key()).arg("*");
    command.arg("name").arg(key).arg("key").arg(key).arg("audio").arg(&wav[..]);
    match command.query_async::<String>(&mut connection).await {
        Ok(id) => Reply::Accepted(id),
        Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
            Reply::Unknown(error.to_string())
        }
        Err(error) => Reply::Refused(error.to_string()),
    }
}
