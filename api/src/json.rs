//! A small JSON object as the body of a request, read into the same parameters as a query or a form.

use futures::{StreamExt, TryStreamExt};
use serde_json::{Map, Value};

use crate::call::Call;
use crate::params::Params;
use crate::reply::{Error, Kind};
use crate::upload::Body;

/// The largest body, in bytes: a thousand ids and a prompt fit.
const BYTES_MAX: usize = 128 * 1024;

/// Reads the body's fields, and those of the query. An empty body is an object without fields.
///
/// # Errors
/// 400 for what is no flat object, 413 for too much of it.
pub async fn params(call: &Call, body: Body) -> Result<Params, Error> {
    let mut bytes = Vec::new();
    let mut pieces = body.map_err(|error| bad(format!("the body broke off: {error}"))).boxed();
    while let Some(piece) = pieces.try_next().await? {
        if bytes.len() + piece.len() > BYTES_MAX {
            let message = format!("the body has more than {BYTES_MAX} bytes, the most that is taken here");
            return Err(Error::new(Kind::TooLarge, "body_too_large", message));
        }
        bytes.extend_from_slice(&piece);
    }
    let mut params = call.params();
    for (name, value) in fields(&bytes)? {
        push(&mut params, name, value)?;
    }
    Ok(params)
}

fn fields(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(bytes).map_err(|error| bad(format!("the body is not a JSON object: {error}")))
}

fn push(params: &mut Params, name: String, value: Value) -> Result<(), Error> {
    match value {
        Value::Null => {}
        Value::Bool(value) => params.push(name, value.to_string()),
        Value::Number(value) => params.push(name, value.to_string()),
        Value::String(value) => params.push(name, value),
        Value::Array(values) => {
            for value in values {
                push(params, format!("{}[]", name.trim_end_matches("[]")), value)?;
            }
        }
        Value::Object(_) => {
            return Err(bad(format!(
                "the field {name:?} is an object; all fields here are plain values or lists"
            )));
        }
    }
    Ok(())
}

fn bad(message: String) -> Error {
    Error::new(Kind::Bad, "bad_body", message)
}
