//! The whole route table.

use std::time::Instant;

use uuid::Uuid;
use warp::filters::BoxedFilter;
use warp::http::header::ALLOW;
use warp::http::{HeaderValue, StatusCode};
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection, path};

use crate::api::Api;
use crate::call::call;
use crate::reply::{self, Detail, Error};
use crate::{
    backlog, compare, dead, deletions, generations, metrics, openai, openapi, recordings, survey,
    transcripts, upload,
};

/// Every route by its name: method and path, as in the OpenAPI document.
pub fn table(api: &Api) -> Table {
    let (get, post, delete) = (warp::get, warp::post, warp::delete);
    let admin = service::admin::routes("voiceforge-api", &api.readiness, api.metrics.clone());
    let api = {
        let api = api.clone();
        move || {
            let api = api.clone();
            warp::any().map(move || api.clone())
        }
    };
    let body = || warp::body::stream().map(upload::body);
    let recordings = || api().and(path!("v1" / "recordings"));
    let recording = || api().and(path!("v1" / "recordings" / String));
    let transcript = || api().and(path!("v1" / "recordings" / String / "transcript"));
    let letter = || api().and(path!("v1" / "dead" / String));
    let transcribe = || api().and(path!("v1" / "audio" / "transcriptions"));
    let runs = || api().and(path!("v1" / "generations"));
    let run = || api().and(path!("v1" / "generations" / String));
    let run_act = |act: &'static str| {
        api().and(path!("v1" / "generations" / String / ..)).and(path(act)).and(path::end())
    };
    let of_recording = |what: &'static str| {
        api().and(path!("v1" / "recordings" / String / ..)).and(path(what)).and(path::end())
    };
    let generation_act = |act: &'static str| {
        api()
            .and(path!("v1" / "recordings" / String / "generations" / String / ..))
            .and(path(act))
            .and(path::end())
    };
    let translate = || api().and(path!("v1" / "audio" / "translations"));

    Table::default()
        .add("POST /v1/recordings", recordings().and(post()).and(call()).and(body()).then(recordings::create))
        .add("GET /v1/recordings", recordings().and(get()).and(call()).then(recordings::list))
        .add("GET /v1/recordings/{id}", recording().and(get()).and(call()).then(recordings::get))
        .add("DELETE /v1/recordings/{id}", recording().and(delete()).and(call()).then(deletions::delete))
        .add("GET /v1/recordings/{id}/transcript", transcript().and(get()).and(call()).then(transcripts::get))
        .add("POST /v1/generations", runs().and(post()).and(call()).and(body()).then(generations::create))
        .add("GET /v1/generations", runs().and(get()).and(call()).then(generations::list))
        .add("GET /v1/generations/{id}", run().and(get()).and(call()).then(generations::get))
        .add(
            "POST /v1/generations/{id}/cancel",
            run_act("cancel").and(post()).and(call()).then(generations::cancel),
        )
        .add(
            "POST /v1/generations/{id}/activate",
            run_act("activate").and(post()).and(call()).then(generations::activate),
        )
        .add(
            "GET /v1/generations/{id}/compare",
            run_act("compare").and(get()).and(call()).then(generations::compare),
        )
        .add(
            "GET /v1/recordings/{id}/generations",
            of_recording("generations").and(get()).and(call()).then(compare::list),
        )
        .add(
            "GET /v1/recordings/{id}/compare",
            of_recording("compare").and(get()).and(call()).then(compare::compare),
        )
        .add(
            "POST /v1/recordings/{id}/cancel",
            of_recording("cancel").and(post()).and(call()).then(compare::cancel),
        )
        .add(
            "POST /v1/recordings/{id}/generations/{generation}/activate",
            generation_act("activate").and(post()).and(call()).then(compare::activate),
        )
        .add(
            "POST /v1/recordings/{id}/generations/{generation}/cancel",
            generation_act("cancel").and(post()).and(call()).then(compare::cancel_one),
        )
        .add(
            "GET /v1/search",
            api().and(path!("v1" / "search")).and(get()).and(call()).then(transcripts::search),
        )
        .add(
            "POST /v1/audio/transcriptions",
            transcribe().and(post()).and(call()).and(body()).then(openai::transcribe),
        )
        .add(
            "POST /v1/audio/translations",
            translate().and(post()).and(call()).and(body()).then(openai::translate),
        )
        .add("GET /v1/backlog", api().and(path!("v1" / "backlog")).and(get()).and(call()).then(backlog::get))
        .add("GET /v1/models", api().and(path!("v1" / "models")).and(get()).and(call()).then(backlog::models))
        .add("GET /v1/survey", api().and(path!("v1" / "survey")).and(get()).and(call()).then(survey::get))
        .add("GET /v1/dead", api().and(path!("v1" / "dead")).and(get()).and(call()).then(dead::list))
        .add("GET /v1/dead/{id}", letter().and(get()).and(call()).then(dead::get))
        .add("DELETE /v1/dead/{id}", letter().and(delete()).and(call()).then(dead::delete))
        .add(
            "POST /v1/dead/{id}/replay",
            api().and(path!("v1" / "dead" / String / "replay")).and(post()).and(call()).then(dead::replay),
        )
        .add("GET /openapi.json", path!("openapi.json").and(get()).then(openapi::get))
        .mount(&["GET /health", "GET /health/live", "GET /health/ready", "GET /metrics"], admin)
}

/// Routes with their names.
#[derive(Default)]
pub struct Table {
    names: Vec<&'static str>,
    filter: Option<BoxedFilter<(Response,)>>,
}

/// The route that answered, for metrics and the log.
#[derive(Clone, Copy)]
struct Answered(&'static str);

impl Table {
    /// The names of all routes, in order.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Adds a route whose handler gives a reply or an error.
    fn add<F>(self, name: &'static str, route: F) -> Table
    where
        F: Filter<Extract = (Result<Response, Error>,), Error = Rejection> + Clone + Send + Sync + 'static,
    {
        let route = route.map(move |result: Result<Response, Error>| {
            let mut response = result.unwrap_or_else(Response::from);
            response.extensions_mut().insert(Answered(name));
            response
        });
        self.mount(&[name], route)
    }

    /// Adds routes that are a filter already.
    fn mount<F>(mut self, names: &[&'static str], routes: F) -> Table
    where
        F: Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static,
    {
        self.names.extend(names);
        self.filter = Some(match self.filter {
            Some(before) => before.or(routes).unify().boxed(),
            None => routes.boxed(),
        });
        self
    }
}

/// Everything the API answers. It never rejects: what no route takes is an error reply like any other.
pub fn all(api: &Api) -> BoxedFilter<(Response,)> {
    let Table { names, filter } = table(api);
    let filter = filter.expect("the table has routes");
    let arrived = warp::any().map(Instant::now).and(warp::path::full());
    arrived
        .and(filter.recover(reply::recover).unify())
        .map(move |at: Instant, path: FullPath, response: Response| {
            finish(&names, at, path.as_str(), response)
        })
        .boxed()
}

/// Adds what every reply has, counts it, and tells the log of failures.
fn finish(names: &[&'static str], at: Instant, path: &str, mut response: Response) -> Response {
    let took = at.elapsed();
    let status = response.status();
    let route =
        response.extensions().get::<Answered>().map_or_else(|| shared(names, path), |answered| answered.0);
    let id = format!("req_{}", Uuid::new_v4().simple());
    metrics::answered(route, status.as_u16(), took);
    let detail = response.extensions().get::<Detail>().map_or("", |detail| &detail.0);
    let took_ms = took.as_millis() as u64;
    if status.is_server_error() {
        tracing::error!(request = id, route, status = status.as_u16(), took_ms, "{detail}");
    } else {
        tracing::debug!(request = id, route, status = status.as_u16(), took_ms, "answered {detail}");
    }

    reply::set_header(&mut response, "x-request-id", &id);
    reply::set_header(&mut response, "x-content-type-options", "nosniff");
    if path.starts_with("/v1/audio/") {
        reply::set_header(&mut response, "openai-processing-ms", &took_ms.to_string());
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = methods(names, path).collect::<Vec<_>>().join(", ");
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(ALLOW, allowed);
        }
    }
    response
}

/// The name of a route that does not tell it itself; whatever is not there shares one name, so that nobody can make up
/// names of metrics.
fn shared(names: &[&'static str], path: &str) -> &'static str {
    let found = names.iter().find(|name| name.strip_prefix("GET ").is_some_and(|pattern| pattern == path));
    found.copied().unwrap_or("none")
}

/// The methods that some route takes on `path`.
fn methods<'a>(names: &'a [&'static str], path: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let fits = |pattern: &str| {
        let (pattern, path) = (pattern.split('/'), path.split('/'));
        pattern.clone().count() == path.clone().count()
            && pattern.zip(path).all(|(pattern, part)| pattern.starts_with('{') || pattern == part)
    };
    names.iter().filter_map(move |name| {
        name.split_once(' ').filter(|(_, pattern)| fits(pattern)).map(|(method, _)| method)
    })
}
