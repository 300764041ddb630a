//! What people and their programs call (docs/API.md): every answer is about what the caller's tenant has, or about tenants for
//! the operator.
//!
//! A request's way: the route's [`gate`](caller::gate) finds out who calls and whether the endpoint's row in
//! [`v1::ENDPOINTS`] lets it; [`Call`](ask::Call) finds what the path names among what is the caller's; the handler has the
//! enclave's keeper do it, or writes it down itself where no enclave is concerned, with its line in the audit log in the same
//! transaction.

mod answer;
mod apply;
mod ask;
mod audit;
mod caller;
mod communities;
mod enclaves;
mod explain;
mod members;
mod principals;
mod tenants;
#[cfg(test)]
mod tests;
mod tokens;

pub(crate) use ask::Json;

use std::sync::Arc;

use axum::{
    Extension, Router, middleware,
    response::Response,
    routing::{MethodRouter, delete, get, post, put},
};
use coterie_api::v1::{self, Endpoint, Method};
use http::{HeaderValue, header::CACHE_CONTROL};

use crate::{refusal::Refusal, registry::Server};
use answer::Denial;
use caller::Gate;

/// How an endpoint is served.
type Serve = fn() -> MethodRouter<Arc<Server>>;

/// Every endpoint of people, with what serves it.
const ROUTES: &[(Method, &str, Serve)] = &[
    (Method::Get, "/v1/whoami", || get(principals::whoami)),
    (Method::Get, "/v1/tenants", || get(tenants::list)),
    (Method::Post, "/v1/tenants", || post(tenants::create)),
    (Method::Get, "/v1/tenants/{t}", || get(tenants::one)),
    (Method::Delete, "/v1/tenants/{t}", || delete(tenants::remove)),
    (Method::Get, "/v1/enclaves", || get(enclaves::list)),
    (Method::Get, "/v1/enclaves/{e}", || get(enclaves::one)),
    (Method::Put, "/v1/enclaves/{e}", || put(apply::apply)),
    (Method::Delete, "/v1/enclaves/{e}", || delete(enclaves::remove)),
    (Method::Get, "/v1/enclaves/{e}/file", || get(enclaves::file)),
    (Method::Get, "/v1/enclaves/{e}/communities", || get(communities::list)),
    (Method::Post, "/v1/enclaves/{e}/communities/{c}/rotate-key", || {
        post(communities::rotate_key)
    }),
    (Method::Get, "/v1/enclaves/{e}/members", || get(members::list)),
    (Method::Post, "/v1/enclaves/{e}/members/end", || post(members::end_many)),
    (Method::Get, "/v1/enclaves/{e}/members/{m}", || get(members::one)),
    (Method::Delete, "/v1/enclaves/{e}/members/{m}", || delete(members::end)),
    (Method::Post, "/v1/enclaves/{e}/members/{m}/isolate", || {
        post(members::isolate)
    }),
    (Method::Post, "/v1/enclaves/{e}/members/{m}/release", || {
        post(members::release)
    }),
    (Method::Post, "/v1/enclaves/{e}/members/{m}/revoke", || {
        post(members::revoke)
    }),
    (Method::Post, "/v1/enclaves/{e}/members/{m}/bundle", || {
        post(members::bundle)
    }),
    (Method::Get, "/v1/enclaves/{e}/tokens", || get(tokens::list)),
    (Method::Post, "/v1/enclaves/{e}/tokens", || post(tokens::create)),
    (Method::Get, "/v1/enclaves/{e}/tokens/{k}", || get(tokens::one)),
    (Method::Delete, "/v1/enclaves/{e}/tokens/{k}", || delete(tokens::revoke)),
    (Method::Get, "/v1/enclaves/{e}/explain", || get(explain::explain)),
    (Method::Post, "/v1/enclaves/{e}/root/rotate", || {
        post(communities::rotate_root)
    }),
    (Method::Get, "/v1/principals", || get(principals::list)),
    (Method::Post, "/v1/principals", || post(principals::create)),
    (Method::Delete, "/v1/principals/{p}", || delete(principals::revoke)),
    (Method::Get, "/v1/audit", || get(audit::page)),
];

/// The routes of people. What [`v1::ENDPOINTS`] does not name is not served.
pub(crate) fn router(server: Arc<Server>) -> Router {
    let mut router = Router::new();
    for (method, path, serve) in ROUTES {
        let Some(endpoint) = endpoint(*method, path) else {
            continue;
        };
        let gate = Gate {
            server: Arc::clone(&server),
            endpoint,
        };
        let gate = middleware::from_fn_with_state(gate, caller::gate);
        router = router.route(path, serve().route_layer(gate));
    }
    router
        .fallback(|| async { Denial::from(Refusal::NoEndpoint) })
        .method_not_allowed_fallback(|| async { Denial::Method })
        .layer(Extension(audit::Room::new()))
        .layer(middleware::map_response(unstored))
        .with_state(server)
}

fn endpoint(method: Method, path: &str) -> Option<&'static Endpoint> {
    v1::ENDPOINTS.iter().find(|e| e.method == method && e.path == path)
}

/// Answers hold keys, tokens and what is true at the moment: nobody on the way keeps them.
async fn unstored(mut response: Response) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}
