//! The HTTP API as it is seen from here.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use transcript::{Format, Status};
use url::{Host, Url};

use crate::config::Config;
use crate::progress::{Standing, clock};
use crate::wishes::{Server, is_address};

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
        self.has_code("not_ready")
    }

    /// Whether the API gave this word for it.
    pub fn has_code(&self, word: &str) -> bool {
        matches!(self, Error::Refused { code: Some(code), .. } if code == word)
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

/// A transcript as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The transcript in the format asked for.
    pub text: String,
    /// Where its recording stands.
    pub status: Option<Status>,
    /// Where the audio broke off, in milliseconds, and why, if it did.
    pub truncated: Option<(u64, String)>,
}

impl Text {
    /// What a reader should know and the words alone do not say.
    pub fn notes(&self) -> Vec<String> {
        let unfinished = self.status.filter(|&status| status != Status::Complete);
        let unfinished =
            unfinished.map(|status| format!("the recording is {status}: this is what there is of it"));
        let truncated = self.truncated.as_ref().map(|(at_ms, reason)| {
            format!("the audio breaks off at {}: {reason}", clock(*at_ms as f64 / 1000.0))
        });
        unfinished.into_iter().chain(truncated).collect()
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
    /// When the service that is meant is stopped, or this machine has no certificates to trust and the server needs
    /// some.
    pub fn new(server: &Server, config: &Config) -> anyhow::Result<Client> {
        let key = server.key(config);
        Client::at(config.server(server.server.as_ref())?, key)
    }

    /// A client of the server at `server`, with a key to show.
    ///
    /// # Errors
    /// When that is no address of an API, or this machine has no certificates to trust and the server needs some.
    pub fn at(server: Url, key: Option<String>) -> anyhow::Result<Client> {
        anyhow::ensure!(
            is_address(&server),
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
    pub async fn transcript(&self, id: &str, format: Format, generation: Option<u32>) -> Result<Text, Error> {
        let mut query = vec![("format".to_owned(), format.to_string())];
        query.extend(generation.map(|number| ("generation".to_owned(), number.to_string())));
        let path = format!("{}/transcript", recording_path(id));
        let response = self.send(self.request(Method::GET, &path, &query)).await?;
        let header = |name| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let status = header("x-voiceforge-status").and_then(|status| status.parse().ok());
        let truncated = header("x-voiceforge-truncated").and_then(|told| truncation(&told));
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        Ok(Text { text, status, truncated })
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
        let message = format!("{}{}", told.message, hint(status, &told, self.key.is_some()));
        Err(Error::Refused {
            status: status.as_u16(),
            code: told.code,
            message,
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

/// What this command adds to a message of the API, which knows nothing of commands.
fn hint(status: StatusCode, told: &ToldFields, has_key: bool) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED if !has_key => "; give one with --api-key or VOICEFORGE_API_KEY",
        StatusCode::NOT_FOUND if told.message.starts_with("the recording ") => {
            "; `voiceforge list` tells the ids, with --name TEXT by name"
        }
        _ => "",
    }
}

/// Reads where the audio broke off and why: `7500 the file ends early`.
fn truncation(header: &str) -> Option<(u64, String)> {
    let (at_ms, reason) = header.split_once(' ')?;
    Some((at_ms.parse().ok()?, reason.to_owned()))
}

/// The path of a recording; an id that is none cannot lead elsewhere.
pub fn recording_path(id: &str) -> String {
    format!("/v1/recordings/{}", part(id))
}

/// One part of a path: whatever an id holds, it stays one part.
pub fn part(id: &str) -> impl Display + '_ {
    // All but what RFC 3986 calls unreserved: ids of recordings go as they are.
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(id, RESERVED)
}

/// Reads an id that a person gives. One that is empty or `.` or `..` would name another page of the API.
pub fn id(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err("no id is like that".to_owned()),
        _ => Ok(text.to_owned()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_in_a_transcript_is_told_beside_it() {
        let text = |status, truncated| Text { text: String::new(), status, truncated }.notes();
        assert_eq!(text(Some(Status::Complete), None), [""; 0]);
        assert_eq!(
            text(Some(Status::Transcribing), truncation("7500 the file ends early")),
            [
                "the recording is transcribing: this is what there is of it",
                "the audio breaks off at 0:07: the file ends early",
            ]
        );
        assert_eq!(truncation("the file ends early"), None);
    }

    #[test]
    fn an_id_stays_one_part_of_a_path() {
        for text in ["", ".", ".."] {
            assert!(super::id(text).is_err(), "{text:?}");
        }
        for text in ["a/../b", "...", "%2e%2e", "a b?c#d", "ä"] {
            let id = super::id(text).unwrap();
            let url = Url::parse(&format!("http://here{}", recording_path(&id))).unwrap();
            assert_eq!((url.path_segments().unwrap().count(), url.query()), (3, None), "{url}");
        }
    }

    #[test]
    fn a_refusal_names_the_command_that_helps() {
        let hint = |status, message: &str, has_key| {
            let told = ToldFields { message: message.to_owned(), code: None };
            super::hint(status, &told, has_key)
        };
        let nothing = "the recording \"talk\" does not exist";
        assert!(hint(StatusCode::NOT_FOUND, nothing, true).contains("`voiceforge list`"));
        assert_eq!(hint(StatusCode::NOT_FOUND, "generation 7 of recording 1 does not exist", true), "");
        assert!(hint(StatusCode::UNAUTHORIZED, "a key is needed", false).contains("--api-key"));
        assert_eq!(hint(StatusCode::UNAUTHORIZED, "this key is not known", true), "");
    }
}
