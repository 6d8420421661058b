//! The HTTP API as it is seen from here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use transcript::{Format, Status};
use url::{Host, Url};

use crate::config::Config;
use crate::progress::Standing;
use crate::wishes::Server;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may be silent; uploads and waiting answers are well within.
const SILENCE_MAX: Duration = Duration::from_secs(660);
/// The most items the API gives at once.
const PAGE_MAX: u32 = 200;

/// Why the API did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers.
    #[error(
        "cannot reach {server}: {reason}; is the service running? `voiceforge up` starts one; --server or VOICEFORGE_SERVER names another, VOICEFORGE_DATA the folder of one that `up` runs elsewhere"
    )]
    Unreachable {
        /// Where it was looked for.
        server: String,
        /// What the system says.
        reason: String,
    },
    /// The answer was no.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// A stable word, where there is one.
        code: Option<String>,
        /// What happened and what to do about it.
        message: String,
        /// When to come again, if that may help.
        retry_after: Option<Duration>,
    },
    /// What answered is not the API, or of another version.
    #[error("{server} does not answer as VoiceForge's API does ({problem}); check the address")]
    Strange {
        /// Who answered.
        server: String,
        /// What was odd.
        problem: String,
    },
}

impl Error {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Unreachable { .. } => true,
            Error::Refused { status, .. } => matches!(status, 408 | 429 | 502..=504),
            Error::Strange { .. } => false,
        }
    }

    /// Whether there is nothing under the id asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { status: 404, .. })
    }

    /// Whether the transcript is not there yet.
    pub fn is_not_ready(&self) -> bool {
        matches!(self, Error::Refused { code: Some(code), .. } if code == "not_ready")
    }

    /// How long to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// A recording as the API tells it, as far as commands need it.
#[derive(Clone, Debug, Deserialize)]
pub struct Recording {
    /// Its id; none before the drop is admitted.
    pub id: Option<String>,
    /// The id of its drop.
    pub drop_id: Option<String>,
    /// The name the sender gave it.
    pub name: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Why it failed or was rejected.
    pub reason: Option<Reason>,
    /// When it was handed in.
    pub submitted_at: Option<String>,
    /// How far it is.
    #[serde(default)]
    pub progress: Share,
    /// ISO 639-1 code.
    pub language: Option<String>,
}

/// Why something did not work.
#[derive(Clone, Debug, Deserialize)]
pub struct Reason {
    /// A stable word.
    pub code: String,
    /// What happened and what to do about it.
    pub message: String,
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Share {
    /// The share of the work that is done, 0 to 1.
    pub share: f64,
    /// Seconds of audio.
    pub audio_s: f64,
    /// Seconds of it that are decoded.
    pub decoded_s: f64,
    /// Seconds of speech that have their text.
    pub transcribed_s: f64,
    /// Segments that ended without text.
    pub failed_segments: u64,
}

impl Recording {
    /// Its id, or that of its drop while it has none: either is an address.
    pub fn address(&self) -> &str {
        self.id.as_deref().or(self.drop_id.as_deref()).unwrap_or_default()
    }

    /// How far it is.
    pub fn standing(&self) -> Standing {
        let Share { share, audio_s, decoded_s, transcribed_s, .. } = self.progress;
        Standing { status: self.status, share, audio_s, decoded_s, transcribed_s }
    }
}

/// A way to the API.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    key: Option<String>,
    /// Whether it has ever answered: then silence is a restart, before that a wrong address.
    answered: AtomicBool,
}

impl Client {
    /// A client as flags and environment say.
    ///
    /// # Errors
    /// When this machine has no certificates to trust, and the server needs some.
    pub fn new(server: &Server, config: &Config) -> anyhow::Result<Client> {
        let key = server.key(config);
        Client::at(config.server(server.server.as_ref()), key)
    }

    /// A client of the server at `server`, with a key to show.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn at(server: Url, key: Option<String>) -> anyhow::Result<Client> {
        anyhow::ensure!(
            matches!(server.scheme(), "http" | "https"),
            "{server} is not the address of an API; expected one like http://127.0.0.1:8080"
        );
        service::install_tls();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("voiceforge/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX);
        if server.scheme() == "http" {
            // No certificates are needed, so a machine without any is fine.
            builder = builder.tls_certs_only([]);
        }
        if is_here(&server) {
            builder = builder.no_proxy();
        }
        let http =
            builder.build().map_err(|error| anyhow::anyhow!("prepare for https: {}", chain(&error)))?;
        Ok(Client { http, server, key, answered: AtomicBool::new(false) })
    }

    /// The address of the server, without an end.
    pub fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    /// Whether the server has answered anything yet.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Hands audio in, of `length` bytes where that is known.
    ///
    /// # Errors
    /// As the API says.
    pub async fn drop(
        &self,
        fields: &[(String, String)],
        audio: Body,
        length: Option<u64>,
    ) -> Result<Recording, Error> {
        let mut request = self
            .request(Method::POST, "/v1/recordings", fields)
            .header(CONTENT_TYPE, "application/octet-stream");
        if let Some(length) = length {
            // The server then refuses what is too large before it is sent.
            request = request.header(CONTENT_LENGTH, length);
        }
        self.read(self.send(request.body(audio)).await?).await
    }

    /// What became of a recording or a drop.
    ///
    /// # Errors
    /// As the API says.
    pub async fn recording(&self, id: &str) -> Result<Recording, Error> {
        self.get(&recording_path(id), &[]).await
    }

    /// Deletes a recording or a drop; tells whether everything of it is erased already.
    ///
    /// # Errors
    /// As the API says.
    pub async fn delete(&self, id: &str) -> Result<bool, Error> {
        let response = self.send(self.request(Method::DELETE, &recording_path(id), &[])).await?;
        Ok(response.status() == StatusCode::NO_CONTENT)
    }

    /// [`Client::recording`] as the JSON that came.
    ///
    /// # Errors
    /// As the API says.
    pub async fn about(&self, id: &str) -> Result<String, Error> {
        self.text(&recording_path(id), &[]).await
    }

    /// A transcript in some format.
    ///
    /// # Errors
    /// As the API says.
    pub async fn transcript(
        &self,
        id: &str,
        format: Format,
        generation: Option<u32>,
    ) -> Result<String, Error> {
        let mut query = vec![("format".to_owned(), format.to_string())];
        query.extend(generation.map(|number| ("generation".to_owned(), number.to_string())));
        self.text(&format!("{}/transcript", recording_path(id)), &query).await
    }

    /// What a list holds, page after page until there are `limit` items or no more.
    ///
    /// # Errors
    /// As the API says.
    pub async fn pages(
        &self,
        path: &str,
        query: &[(String, String)],
        limit: u32,
    ) -> Result<Vec<serde_json::Value>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let missing = limit.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
            if missing == 0 {
                return Ok(items);
            }
            let mut query = query.to_vec();
            query.push(("limit".to_owned(), missing.min(PAGE_MAX).to_string()));
            query.extend(cursor.map(|cursor| ("cursor".to_owned(), cursor)));
            let page: Page = self.get(path, &query).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(items),
            }
        }
    }

    /// What a GET gives, as a value.
    ///
    /// # Errors
    /// As the API says.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(String, String)]) -> Result<T, Error> {
        self.read(self.send(self.request(Method::GET, path, query)).await?).await
    }

    /// What a POST of JSON gives, as a value.
    ///
    /// # Errors
    /// As the API says.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, Error> {
        self.read(self.send(self.request(Method::POST, path, &[]).json(body)).await?).await
    }

    /// What a GET gives, as it comes.
    ///
    /// # Errors
    /// As the API says.
    pub async fn text(&self, path: &str, query: &[(String, String)]) -> Result<String, Error> {
        let response = self.send(self.request(Method::GET, path, query)).await?;
        response.text().await.map_err(|error| self.unreachable(&error))
    }

    /// What a POST without a body gives, as a value.
    ///
    /// # Errors
    /// As the API says.
    pub async fn act<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(self.send(self.request(Method::POST, path, &[])).await?).await
    }

    /// Removes what lies under a path.
    ///
    /// # Errors
    /// As the API says.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, path, &[])).await.map(drop)
    }

    fn request(&self, method: Method, path: &str, query: &[(String, String)]) -> RequestBuilder {
        let mut url = self.server.clone();
        url.set_path(&format!("{}{path}", self.server.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.answered.store(true, Ordering::Relaxed);
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.text().await.unwrap_or_default();
        let told = serde_json::from_str::<Told>(&body).ok().map(|told| told.error);
        let Some(told) = told else {
            return Err(Error::Strange {
                server: self.server().to_owned(),
                problem: format!("status {status}"),
            });
        };
        let hint = match status.as_u16() {
            401 if self.key.is_none() => "; give one with --api-key or VOICEFORGE_API_KEY",
            _ => "",
        };
        Err(Error::Refused {
            status: status.as_u16(),
            code: told.code,
            message: format!("{}{hint}", told.message),
            retry_after: header.map(Duration::from_secs),
        })
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Error> {
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map_err(|error| Error::Strange {
            server: self.server().to_owned(),
            problem: format!("its answer cannot be read: {error}"),
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable { server: self.server().to_owned(), reason: chain(error) }
    }
}

/// One page of a list.
#[derive(Deserialize)]
struct Page {
    items: Vec<serde_json::Value>,
    /// The cursor of the next one.
    next: Option<String>,
}

#[derive(Deserialize)]
struct Told {
    error: ToldFields,
}

#[derive(Deserialize)]
struct ToldFields {
    message: String,
    code: Option<String>,
}

/// The path of a recording; an id that is none cannot lead elsewhere.
pub fn recording_path(id: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("/v1/recordings/{id}")
}

/// Whether the server is this machine: then no proxy stands between.
fn is_here(server: &Url) -> bool {
    match server.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// The last cause: what the system said, without the address that the message has already.
fn chain(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
