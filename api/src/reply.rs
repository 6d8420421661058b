//! What goes back: bodies, and the one place where an error becomes a status and OpenAI's error shape.

use std::convert::Infallible;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use warp::Rejection;
use warp::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderName, HeaderValue, StatusCode};
use warp::reply::Response;

/// How long clients are asked to stay away while something the API needs is down.
const DOWN_RETRY: Duration = Duration::from_secs(5);

/// The kinds of error: each has one status and one `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be used as it is.
    Bad,
    /// No valid key.
    Unauthorized,
    /// A valid key, but not for this.
    Forbidden,
    /// Nothing there, or not the caller's.
    NotFound,
    /// The resource is there, the method is not.
    Method,
    /// The client stopped sending.
    Slow,
    /// The state of the recording does not allow it.
    Conflict,
    /// More bytes than are taken.
    TooLarge,
    /// A body of the wrong kind.
    MediaType,
    /// Too much asked for, or too much waiting.
    Busy,
    /// A bug, here or below.
    Internal,
    /// Something the API needs does not answer.
    Down,
    /// The result did not come in time; the work goes on.
    Late,
}

impl Kind {
    fn status(self) -> StatusCode {
        match self {
            Kind::Bad => StatusCode::BAD_REQUEST,
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Method => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Slow => StatusCode::REQUEST_TIMEOUT,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::Busy => StatusCode::TOO_MANY_REQUESTS,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Down => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Late => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn type_word(self) -> &'static str {
        match self {
            Kind::Busy => "rate_limit_error",
            Kind::Internal | Kind::Down | Kind::Late => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// Why a request is not answered as asked. Messages are for the client; `detail` is for the log only.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind it is.
    pub kind: Kind,
    /// What happened and what to do about it.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// A stable word for programs.
    pub code: Option<String>,
    /// When to come again.
    pub retry_after: Option<Duration>,
    /// Whether the same request again is pointless, which OpenAI's clients would otherwise try.
    pub is_final: bool,
    /// What the operator should read.
    pub detail: Option<String>,
}

impl Error {
    /// Makes an error of `kind` with a stable `code` and a message.
    pub fn new(kind: Kind, code: impl Into<String>, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            param: None,
            code: Some(code.into()),
            retry_after: None,
            is_final: false,
            detail: None,
        }
    }

    /// A parameter that cannot be used.
    pub fn param(name: impl Into<String>, message: impl Into<String>) -> Error {
        Error { param: Some(name.into()), ..Error::new(Kind::Bad, "invalid_value", message) }
    }

    /// A parameter that cannot be used, with a code of its own.
    pub fn param_as(name: &str, code: &str, message: impl Into<String>) -> Error {
        Error { param: Some(name.to_owned()), ..Error::new(Kind::Bad, code, message) }
    }

    /// Nothing is there under `what`, or it is another tenant's.
    pub fn not_found(what: impl std::fmt::Display) -> Error {
        Error::new(Kind::NotFound, "not_found", format!("{what} does not exist"))
    }

    /// Too much at once: come again after `retry_after`.
    pub fn busy(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Error {
        Error { retry_after: Some(retry_after), ..Error::new(Kind::Busy, code, message) }
    }

    /// Something the API needs does not answer.
    pub fn down(what: &'static str, detail: impl std::fmt::Display) -> Error {
        Error {
            retry_after: Some(DOWN_RETRY),
            detail: Some(detail.to_string()),
            ..Error::new(
                Kind::Down,
                "unavailable",
                format!("{what} does not answer just now; try again shortly"),
            )
        }
    }

    /// A bug, or a state that nobody foresaw.
    pub fn internal(detail: impl std::fmt::Display) -> Error {
        let message =
            "something went wrong in the server; its log has more under this request's x-request-id";
        Error { detail: Some(detail.to_string()), ..Error::new(Kind::Internal, "internal_error", message) }
    }

    /// Tells OpenAI's clients not to try again.
    pub fn finally(mut self) -> Error {
        self.is_final = true;
        self
    }
}

impl From<views::Error> for Error {
    fn from(error: views::Error) -> Error {
        match error.is_transient() {
            true => Error::down("the database", error),
            false => Error::internal(error),
        }
    }
}

impl From<streams::Error> for Error {
    fn from(error: streams::Error) -> Error {
        match error {
            streams::Error::Full { .. } => Error::busy(
                "queue_full",
                "the queue is at its memory limit; it takes new audio once some of the waiting work is done",
                Duration::from_secs(30),
            ),
            error if error.is_transient() => Error::down("the queue", error),
            error => Error::internal(error),
        }
    }
}

impl From<service::store::StoreError> for Error {
    fn from(error: service::store::StoreError) -> Error {
        use service::store::StoreError;
        let told = tell(&error);
        match error {
            StoreError::Full { .. } => Error {
                detail: Some(told),
                ..Error::busy(
                    "store_full",
                    "the audio store is full; it takes new audio once there is room again",
                    Duration::from_secs(60),
                )
            },
            StoreError::Failed { .. } => Error::down("the audio store", told),
            _ => Error::internal(told),
        }
    }
}

/// An error and what it stems from, in one line.
fn tell(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The body of every error.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// The error.
    pub error: ErrorFields<'a>,
}

/// What an error says, as OpenAI's clients expect it.
#[derive(Serialize, ToSchema)]
pub struct ErrorFields<'a> {
    /// What happened and what to do about it.
    pub message: &'a str,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The parameter at fault, or null.
    pub param: Option<&'a str>,
    /// A stable word for programs, or null.
    pub code: Option<&'a str>,
}

/// What the log should say about a reply; never sent.
#[derive(Clone, Debug)]
pub struct Detail(pub String);

impl From<Error> for Response {
    fn from(error: Error) -> Response {
        let fields = ErrorFields {
            message: &error.message,
            kind: error.kind.type_word(),
            param: error.param.as_deref(),
            code: error.code.as_deref(),
        };
        let mut response = json(error.kind.status(), &ErrorBody { error: fields });
        let headers = response.headers_mut();
        if let Some(after) = error.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if error.is_final {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if error.kind == Kind::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Detail(error.detail.unwrap_or(error.message)));
        response
    }
}

/// A JSON body.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("replies are plain data: every value has a JSON form");
    text_as(status, "application/json", text)
}

/// A reply that says all by its status: 204.
pub fn nothing() -> Response {
    let mut response = Response::new(String::new().into());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A body of text in some media type.
pub fn text_as(status: StatusCode, content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Sets a header; a value that cannot be one is left out.
pub fn set_header(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// What warp itself turned away: no such route, or no such method on it.
pub async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let error = if rejection.is_not_found() {
        Error::new(Kind::NotFound, "unknown_url", "there is no such URL; /openapi.json lists those there are")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        Error::new(
            Kind::Method,
            "method_not_allowed",
            "this URL does not take this method; /openapi.json lists what it takes",
        )
    } else {
        Error {
            detail: Some(format!("{rejection:?}")),
            ..Error::new(Kind::Bad, "bad_request", "the request cannot be read")
        }
    };
    Ok(error.into())
}
