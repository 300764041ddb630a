//! What is answered when something is done, and when it is not.

use axum::response::{IntoResponse, Response};
use coterie_api::v1::{PROBLEM_TYPE, Problem, problem::code};
use coterie_store::StoreError;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, ETAG, WWW_AUTHENTICATE},
};

use crate::refusal::Refusal;

/// What a handler answers.
pub(super) type Answer = Result<Response, Denial>;

/// Why a person's request is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Denial {
    /// As machines are refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The endpoint is for the other kind of principal.
    #[error("this endpoint is for principals of {0}")]
    Elsewhere(&'static str),
    /// The endpoint has other methods.
    #[error("the endpoint has other methods")]
    Method,
}

impl Denial {
    fn problem(&self) -> Problem {
        let (status, code, remedy) = match self {
            Self::Refused(refusal) => return refusal.problem(),
            Self::Elsewhere(_) => (
                StatusCode::FORBIDDEN,
                code::FORBIDDEN,
                "log in with a key of one with `coterie login`",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                code::METHOD,
                "the header Allow names them",
            ),
        };
        let title = status.canonical_reason().unwrap_or_default();
        Problem::new(status.as_u16(), code, title, self.to_string(), remedy)
    }
}

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        let problem = self.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).expect("strings and numbers are JSON");
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_TYPE)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"coterie\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.into())
    }
}

/// The version of an enclave file, as caches and `If-Match` know it.
pub(super) fn entity_tag(version: u64) -> [(HeaderName, String); 1] {
    [(ETAG, format!("\"{version}\""))]
}

/// A size as a number of the contract.
pub(super) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
