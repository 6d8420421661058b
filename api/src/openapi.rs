//! `/openapi.json`. What a route does is written beside the function that does it.

use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, OperationBuilder};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, SecurityRequirement};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::reply::{self, Error};
use crate::{backlog, compare, dead, deletions, generations, openai, recordings, survey, transcripts};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "VoiceForge",
        description = "Drop audio, read transcripts, search them all. Every error has the shape `{\"error\":{\"message\",\"type\",\"param\",\"code\"}}`, and every reply an `x-request-id`.",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        recordings::create,
        recordings::list,
        recordings::get,
        deletions::delete,
        transcripts::get,
        transcripts::search,
        generations::create,
        generations::list,
        generations::get,
        generations::cancel,
        generations::activate,
        generations::compare,
        compare::list,
        compare::compare,
        compare::activate,
        compare::cancel_one,
        compare::cancel,
        openai::transcribe,
        openai::translate,
        backlog::get,
        backlog::models,
        survey::get,
        dead::list,
        dead::get,
        dead::replay,
        dead::delete,
        get,
    )
)]
struct Described;

/// Get this document
#[utoipa::path(
    get, path = "/openapi.json", tag = "deployment", operation_id = "get_openapi", security(()),
    responses((status = 200, description = "The OpenAPI document", body = String, content_type = "application/json"))
)]
pub async fn get() -> Result<Response, Error> {
    Ok(reply::json(StatusCode::OK, &document()))
}

/// The routes that every program has on its admin port; their functions live there.
const ADMIN: [(&str, &str, &str); 4] = [
    ("/health", "Get health", "Every check of this program and whether it passes"),
    ("/health/live", "Is it alive", "200 while the process answers"),
    ("/health/ready", "Is it ready", "200 when all checks pass, else 503"),
    ("/metrics", "Get metrics", "Metrics of this process for Prometheus"),
];

/// The whole document.
pub fn document() -> Document {
    let mut document = Described::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("key", bearer);
    document.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    for (path, summary, description) in ADMIN {
        let operation = OperationBuilder::new()
            .tag("deployment")
            .summary(Some(summary))
            .operation_id(Some(format!("get{}", path.replace('/', "_"))))
            .security(SecurityRequirement::default())
            .response("200", ResponseBuilder::new().description(description));
        document.paths.add_path_operation(path, vec![HttpMethod::Get], operation.build());
    }
    document
}
