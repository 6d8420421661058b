//! Clients that offer recordings, delete some, have some transcribed again, and note every answer.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use events::Lane;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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
            let said_again = sound::expected(&wav, Lane::Replay)?;
            anyhow::Ok((wav, said, said_again))
        });
        let (wav, said, said_again) = made.await??;
        let key = format!("offer-{number:05}");
        number += 1;
        let at = {
            let mut offers = offers.lock().unwrap_or_else(PoisonError::into_inner);
            offers.push(Offer::new(key.clone(), way, said, said_again));
            offers.len() - 1
        };
        // Each comes in every way and on every lane.
        let wish = match number {
            number if number % DELETED_ONE_IN == 0 => Wish::Delete(random.random_range(0..=DELETED_AFTER_MS)),
            number if number % REPLAYED_ONE_IN == 0 => Wish::Replay,
            _ => Wish::Keep,
        };
        let (deployment, offers, http) = (Arc::clone(&deployment), Arc::clone(&offers), http.clone());
        clients.spawn(async move {
            let wav = Bytes::from(wav);
            let note = |to: fn(&mut Offer) -> &mut Vec<Attempt>, reply: &Reply| {
                let attempt = Attempt { at_ms: began.elapsed().as_millis() as u64, reply: reply.clone() };
                to(&mut offers.lock().unwrap_or_else(PoisonError::into_inner)[at]).push(attempt);
            };
            let offered = insist(pace.patience, || async {
                let reply = offer(&deployment, &http, &key, way, lane, &wav).await;
                note(|offer| &mut offer.attempts, &reply);
                reply
            });
            // Of what was handed in twice, only the one that was answered would be deleted.
            let Some((drop_id, 1)) = offered.await else { return };
            match wish {
                Wish::Keep => {}
                Wish::Delete(after_ms) => {
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    let deleted = insist(pace.patience, || async {
                        let reply = delete(&http, &deployment.api, &drop_id).await;
                        note(|offer| &mut offer.deletions, &reply);
                        reply
                    });
                    deleted.await;
                }
                Wish::Replay => {
                    let until = Instant::now() + pace.patience;
                    while let Some(left) = until.checked_duration_since(Instant::now()) {
                        let about = about(&http, &deployment.api, &drop_id);
                        if let Ok(Some(id)) = tokio::time::timeout(left, about).await {
                            // A run whose answer got lost is one all the same: nobody asks twice.
                            let reply = replay(&http, &deployment.api, &id).await;
                            note(|offer| &mut offer.replays, &reply);
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(400)).await;
                    }
                }
            }
        });
    }
    while clients.join_next().await.is_some() {}
    Ok(())
}

/// One recording in so many is deleted, at every stage of its work.
const DELETED_ONE_IN: u64 = 5;
/// How long after it was accepted at most, milliseconds.
const DELETED_AFTER_MS: u64 = 3_000;
/// One recording in so many is transcribed again.
const REPLAYED_ONE_IN: u64 = 9;

/// What becomes of a recording.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// It stays as it is.
    Keep,
    /// It is deleted, so many milliseconds after it was accepted.
    Delete(u64),
    /// It is transcribed again once it is complete.
    Replay,
}

/// Asks until it is accepted or `patience` is over; returns the id and how many times it took.
async fn insist<Fut>(patience: Duration, mut ask: impl FnMut() -> Fut) -> Option<(String, u32)>
where
    Fut: Future<Output = Reply>,
{
    let until = Instant::now() + patience;
    let mut times = 0;
    loop {
        times += 1;
        if let Reply::Accepted(id) = ask().await {
            return Some((id, times));
        }
        if Instant::now() > until {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

/// Deletes a recording by the id of its drop, once.
async fn delete(http: &reqwest::Client, api: &str, drop_id: &str) -> Reply {
    let asked = http.delete(format!("{api}/v1/recordings/{drop_id}"));
    answered(asked, |status, body| match status {
        202 => Some(body["id"].as_str().unwrap_or_default().to_owned()),
        204 => Some("erased".to_owned()),
        _ => None,
    })
    .await
}

/// Returns the id of a complete recording.
async fn about(http: &reqwest::Client, api: &str, drop_id: &str) -> Option<String> {
    let answer = http.get(format!("{api}/v1/recordings/{drop_id}")).send().await.ok()?;
    let about: serde_json::Value = answer.json().await.ok()?;
    (about["status"] == "complete").then(|| about["id"].as_str().map(str::to_owned))?
}

/// Has a recording transcribed again.
async fn replay(http: &reqwest::Client, api: &str, id: &str) -> Reply {
    let asked = http.post(format!("{api}/v1/generations")).json(&serde_json::json!({"ids": [id]}));
    answered(asked, |status, body| (status == 202).then(|| body["id"].as_str().map(str::to_owned))?).await
}

/// What a client is told; `accepted` finds the id in an answer that says yes.
async fn answered(
    asked: reqwest::RequestBuilder,
    accepted: impl Fn(u16, &serde_json::Value) -> Option<String>,
) -> Reply {
    match asked.send().await {
        Err(error) if error.is_connect() => Reply::Refused(error.to_string()),
        Err(error) => Reply::Unknown(error.to_string()),
        Ok(answer) => {
            let status = answer.status();
            let body = answer.text().await.unwrap_or_default();
            let said = serde_json::from_str(&body).unwrap_or_default();
            match accepted(status.as_u16(), &said) {
                Some(id) => Reply::Accepted(id),
                // It may have been done, or begun, all the same.
                None if status.is_success() || status.is_server_error() => {
                    Reply::Unknown(format!("{status}: {body}"))
                }
                None => Reply::Refused(format!("{status}: {body}")),
            }
        }
    }
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
    let asked = http.post(url).header("content-type", "audio/wav").body(wav);
    // Where the server failed, the audio may be on disk already, and then it is handed in later.
    answered(asked, |status, body| (status == 202).then(|| body["drop_id"].as_str().map(str::to_owned))?)
        .await
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
    let queue = streams::Source::Ingest(lane);
    command.arg(queue.key()).arg("*");
    command.arg("name").arg(key).arg("key").arg(key).arg("audio").arg(&wav[..]);
    match command.query_async::<String>(&mut connection).await {
        Ok(id) => Reply::Accepted(streams::keys::drop_id(queue, &id)),
        Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
            Reply::Unknown(error.to_string())
        }
        Err(error) => Reply::Refused(error.to_string()),
    }
}
