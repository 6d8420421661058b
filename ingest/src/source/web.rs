//! Audio behind `http:` and `https:` uris.
//!
//! A name is resolved once for each step of the way, every address it has is looked at, and the connection goes to
//! those very addresses: a name that says something else the second time changes nothing. Redirects are followed by
//! hand, so that each is looked at in the same way.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use url::{Host, Url};

use super::address::is_public;
use super::{Incoming, SourceError, show_uri};
use service::chain;

/// Redirects followed at most.
const REDIRECTS_MAX: usize = 5;
/// How long a name may take to resolve, and a connection to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The web.
pub struct Web {
    /// Hosts that may have private addresses.
    trusted: Vec<String>,
    timeout: Duration,
}

impl Web {
    pub fn new(trusted: Vec<String>, timeout: Duration) -> Web {
        service::install_tls();
        Web { trusted, timeout }
    }

    /// Asks for a uri, following redirects.
    pub async fn fetch(&self, uri: Url) -> Result<Incoming, SourceError> {
        let shown = show_uri(&uri);
        let until = Instant::now() + self.timeout;
        let mut uri = uri;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.get(&uri, until).await?;
            match redirect_of(&response, &uri)? {
                Some(next) => uri = next,
                None => return receive(response, shown),
            }
        }
        Err(SourceError::refused(
            "source_refused",
            format!("{shown} redirects more than {REDIRECTS_MAX} times; name the place itself"),
        ))
    }

    async fn get(&self, uri: &Url, until: Instant) -> Result<Response, SourceError> {
        let shown = show_uri(uri);
        let unavailable = |error: reqwest::Error| {
            SourceError::Unavailable(format!("cannot fetch {shown}: {}", chain(&error.without_url())))
        };
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            .timeout(until.saturating_duration_since(Instant::now()))
            .user_agent(concat!("voiceforge/", env!("CARGO_PKG_VERSION")));
        let addresses = self.resolve(uri).await?;
        if let Some(host) = uri.domain() {
            client = client.resolve_to_addrs(host, &addresses);
        }
        client.build().map_err(unavailable)?.get(uri.clone()).send().await.map_err(unavailable)
    }

    /// Returns the addresses of a uri's host, if all of them may be connected to.
    async fn resolve(&self, uri: &Url) -> Result<Vec<SocketAddr>, SourceError> {
        let refused = |problem: &str| {
            let message = format!("{} {problem}; name a public place, or send the bytes", show_uri(uri));
            SourceError::refused("uri_not_allowed", message)
        };
        let port = uri.port_or_known_default().ok_or_else(|| refused("has no port"))?;
        let addresses: Vec<SocketAddr> = match uri.host() {
            Some(Host::Ipv4(address)) => vec![(IpAddr::V4(address), port).into()],
            Some(Host::Ipv6(address)) => vec![(IpAddr::V6(address), port).into()],
            Some(Host::Domain(name)) => look_up(name, port).await?,
            None => return Err(refused("names no host")),
        };
        let trusted = uri
            .host_str()
            .is_some_and(|host| self.trusted.iter().any(|known| known.eq_ignore_ascii_case(host)));
        if !trusted && !addresses.iter().all(|address| is_public(address.ip())) {
            return Err(refused("leads to a private address"));
        }
        Ok(addresses)
    }
}

async fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, SourceError> {
    let looked_up = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    let unavailable = |problem: String| SourceError::Unavailable(format!("cannot resolve {name}: {problem}"));
    match looked_up {
        Err(_) => Err(unavailable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            if addresses.is_empty() {
                Err(unavailable("it has no address".to_owned()))
            } else {
                Ok(addresses)
            }
        }
    }
}

/// Where a response sends us, if it does.
fn redirect_of(response: &Response, uri: &Url) -> Result<Option<Url>, SourceError> {
    use StatusCode as S;
    let moved = [S::MOVED_PERMANENTLY, S::FOUND, S::SEE_OTHER, S::TEMPORARY_REDIRECT, S::PERMANENT_REDIRECT];
    if !moved.contains(&response.status()) {
        return Ok(None);
    }
    let refused = |problem: &str| {
        SourceError::refused(
            "source_refused",
            format!("{} redirects {problem}; name the place itself", show_uri(uri)),
        )
    };
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let next = location.and_then(|location| uri.join(location).ok()).ok_or_else(|| refused("to nowhere"))?;
    match (uri.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(next)),
        ("https", "http") => Err(refused("from https to http")),
        _ => Err(refused("to what is not the web")),
    }
}

fn receive(response: Response, shown: String) -> Result<Incoming, SourceError> {
    use StatusCode as S;
    let status = response.status();
    let later = [S::REQUEST_TIMEOUT, S::TOO_EARLY, S::TOO_MANY_REQUESTS];
    if status.is_server_error() || later.contains(&status) {
        return Err(SourceError::Unavailable(format!("the server of {shown} answers {status}")));
    }
    if !status.is_success() {
        let message = format!("the server of {shown} answers {status}; check the uri and its access");
        return Err(SourceError::refused("source_refused", message));
    }
    let bytes = response.content_length();
    let body = response.bytes_stream().map_err(|error| error.without_url().into()).boxed();
    Ok(Incoming { scheme: "http", body, bytes, shown })
}
