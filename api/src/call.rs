//! What a handler knows of its request besides path and body.

use std::convert::Infallible;

use warp::Filter;
use warp::http::HeaderMap;

use crate::params::Params;

/// Headers and query of a request.
#[derive(Clone, Debug)]
pub struct Call {
    /// The headers.
    pub headers: HeaderMap,
    /// The query as it came, without the question mark.
    pub query: String,
}

impl Call {
    /// A header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The parameters of the query.
    pub fn params(&self) -> Params {
        Params::of_query(&self.query)
    }
}

/// Extracts the [`Call`] of any request.
pub fn call() -> impl Filter<Extract = (Call,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::header::headers_cloned().and(query).map(|headers, query| Call { headers, query })
}
