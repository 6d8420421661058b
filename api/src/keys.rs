//! Who is calling: API keys, remembered for a few seconds, and the request rate of each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use events::Tenant;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use views::{ApiKey, Views};
use warp::http::HeaderMap;
use warp::http::header::{AUTHORIZATION, HOST, ORIGIN};

use crate::config::Limits;
use crate::metrics;
use crate::reply::{Error, Kind};

/// How long a looked-up key is believed: so long a revoked one may still work.
const REMEMBERED: Duration = Duration::from_secs(10);
/// The most keys remembered, wrong ones included; beyond it all are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose recordings they see.
    pub tenant: Tenant,
    /// Whether they may look after the deployment.
    pub is_operator: bool,
}

impl Caller {
    /// Lets operators pass.
    ///
    /// # Errors
    /// 403 for anybody else.
    pub fn operate(&self) -> Result<(), Error> {
        if self.is_operator {
            return Ok(());
        }
        let message = "this takes an operator's key: `voiceforge keys create NAME --operator` makes one";
        Err(Error::new(Kind::Forbidden, "operator_needed", message))
    }
}

/// When a secret was last looked up, and the key it was, by the secret's SHA-256.
type Remembered = HashMap<[u8; 32], (Instant, Option<ApiKey>)>;

/// The keys of a deployment and what their holders may use up.
pub struct Keys {
    views: Views,
    /// By SHA-256 of the secret, so that no secret lies in memory for longer than its request.
    known: Mutex<Remembered>,
    any: Mutex<Option<(Instant, bool)>>,
    /// Whether the API can be reached from beyond this machine: then a key is always needed.
    exposed: AtomicBool,
    rate: DefaultKeyedRateLimiter<Uuid>,
    clock: DefaultClock,
}

impl Keys {
    /// The keys in `views`.
    pub fn new(views: Views, limits: &Limits) -> Keys {
        let quota = Quota::per_second(at_least_one(limits.rate)).allow_burst(at_least_one(limits.burst));
        Keys {
            views,
            known: Mutex::default(),
            any: Mutex::default(),
            exposed: AtomicBool::new(false),
            rate: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
        }
    }

    /// Says where the API is served. Beyond this machine there must be keys.
    ///
    /// # Errors
    /// A message for the operator when there are none, or the database does not answer.
    pub async fn expose(&self, ip: IpAddr) -> anyhow::Result<()> {
        if ip.is_loopback() {
            return Ok(());
        }
        self.exposed.store(true, Ordering::Relaxed);
        anyhow::ensure!(
            self.views.has_keys().await?,
            "there are no API keys yet, so everybody who reaches {ip} could read and write: make a key with \
             `voiceforge keys create`, or listen on this machine alone with --api-address 127.0.0.1:8080"
        );
        Ok(())
    }

    /// Finds out who is calling, and counts the request against their rate.
    ///
    /// # Errors
    /// 401 without a valid key, 403 for a foreign web page, 429 over the rate, 503 without the database.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Error> {
        let secret = bearer(headers)?;
        let known = match secret {
            Some(secret) => self.find(secret).await?,
            None => None,
        };
        let (caller, id) = match known {
            Some(key) => (Caller { tenant: key.tenant, is_operator: key.is_operator }, key.id),
            None if self.are_needed().await? => {
                return Err(unauthorized(match secret {
                    Some(_) => "the API key is not known or was revoked",
                    None => "an API key is needed: send the header `Authorization: Bearer vf_...`",
                }));
            }
            // Clients that cannot do without a key send anything to a server that has none.
            None => {
                refuse_foreign_pages(headers)?;
                // Whoever is at this machine looks after it.
                (Caller { tenant: Tenant::default(), is_operator: true }, Uuid::nil())
            }
        };
        self.rate.check_key(&id).map_err(|over| {
            metrics::refused("rate_limit_exceeded".to_owned());
            let wait = over.wait_time_from(self.clock.now());
            Error::busy("rate_limit_exceeded", "too many requests with this key; slow down", wait)
        })?;
        Ok(caller)
    }

    async fn find(&self, secret: &str) -> Result<Option<ApiKey>, Error> {
        let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let remembered = lock(&self.known).get(&hash).filter(|(at, _)| at.elapsed() < REMEMBERED).cloned();
        if let Some((_, key)) = remembered {
            return Ok(key);
        }
        let key = self.views.find_key(secret).await?;
        let mut known = lock(&self.known);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(hash, (Instant::now(), key.clone()));
        Ok(key)
    }

    async fn are_needed(&self) -> Result<bool, Error> {
        if self.exposed.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let remembered = *lock(&self.any);
        if let Some((_, any)) = remembered.filter(|(at, _)| at.elapsed() < REMEMBERED) {
            return Ok(any);
        }
        let any = self.views.has_keys().await?;
        *lock(&self.any) = Some((Instant::now(), any));
        Ok(any)
    }
}

/// The secret in `Authorization: Bearer ...`; `None` without the header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let secret = value.to_str().ok().and_then(|text| {
        let (scheme, secret) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim()).filter(|secret| !secret.is_empty())
    });
    let message = "the Authorization header cannot be read; expected `Authorization: Bearer vf_...`";
    secret.map(Some).ok_or_else(|| unauthorized(message))
}

/// Without keys every program on this machine may call, and so could any web page open in a browser here. A browser
/// tells where a page came from, and by which name it reached us: neither may be foreign.
fn refuse_foreign_pages(headers: &HeaderMap) -> Result<(), Error> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(HOST).map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name));
    let origin = text(ORIGIN)
        .map(|origin| url::Url::parse(origin).ok().and_then(|url| url.host_str().map(str::to_owned)));
    let is_here = |name: &str| {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    };
    let host_is_here = host.is_none_or(is_here);
    let origin_is_here = origin.is_none_or(|origin| origin.is_some_and(|name| is_here(&name)));
    if host_is_here && origin_is_here {
        return Ok(());
    }
    let message =
        "without API keys this server answers this machine alone; make a key with `voiceforge keys create`";
    Err(Error::new(Kind::Forbidden, "foreign_origin", message))
}

fn unauthorized(message: &str) -> Error {
    Error::new(Kind::Unauthorized, "invalid_api_key", message)
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every write is one insert, one store or one clear: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_secret_is_read_from_the_header() {
        assert_eq!(bearer(&headers(&[])).unwrap(), None);
        assert_eq!(bearer(&headers(&[("authorization", "Bearer vf_1")])).unwrap(), Some("vf_1"));
        assert_eq!(bearer(&headers(&[("authorization", "bearer  vf_1")])).unwrap(), Some("vf_1"));
        for bad in ["vf_1", "Basic dXNlcg==", "Bearer ", "Bearer"] {
            let error = bearer(&headers(&[("authorization", bad)])).unwrap_err();
            assert_eq!(error.kind, Kind::Unauthorized, "{bad}");
        }
    }

    #[test]
    fn web_pages_from_elsewhere_are_refused() {
        let fine = |pairs| refuse_foreign_pages(&headers(pairs)).is_ok();
        assert!(fine(&[]));
        assert!(fine(&[("host", "127.0.0.1:8080")]));
        assert!(fine(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]));
        assert!(fine(&[("host", "[::1]:8080"), ("origin", "http://[::1]:8080")]));
        assert!(!fine(&[("host", "127.0.0.1:8080"), ("origin", "https://example.com")]));
        assert!(!fine(&[("host", "127.0.0.1:8080"), ("origin", "null")]));
        assert!(!fine(&[("host", "rebound.example.com:8080")]));
    }
}
