//! The router has the routes of the table of endpoints, and no others.

use std::collections::BTreeSet;

use coterie_api::v1::{ENDPOINTS, Endpoint, Scope};
use http::StatusCode;

use super::{
    super::ROUTES,
    site::{Site, path},
};

/// What people call.
pub(super) fn of_people() -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS.iter().filter(|endpoint| match endpoint.scope {
        Scope::Operator | Scope::Own | Scope::Tenant => true,
        Scope::Visitor | Scope::Member => false,
    })
}

#[test]
fn each_endpoint_of_people_is_served_and_nothing_else_is() {
    let served: Vec<_> = ROUTES.iter().map(|(method, path, _)| (*method, *path)).collect();
    let named: Vec<_> = of_people().map(|endpoint| (endpoint.method, endpoint.path)).collect();
    assert_eq!(served, named, "in the order of the table");
}

#[tokio::test]
async fn the_router_answers_to_these_methods_and_to_no_others() {
    let site = Site::new().await;
    let named: BTreeSet<_> = of_people().map(|e| (e.path, e.method.as_str())).collect();
    for endpoint in of_people() {
        let place = path(endpoint, |_| "x".to_owned());
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
            let answered = site.call("", method, &place, "").await;
            match named.contains(&(endpoint.path, method)) {
                true => assert_eq!(answered.code(), "unauthenticated", "{method} {place}"),
                false => {
                    let allowed = answered.headers["allow"].to_str().unwrap().to_owned();
                    assert!(
                        allowed.contains(endpoint.method.as_str()),
                        "{method} {place}: {allowed}"
                    );
                    assert_eq!(answered.code(), "method-not-allowed", "{method} {place}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_machines_call_and_what_nobody_calls_is_not_here() {
    let site = Site::new().await;
    let machines = ENDPOINTS
        .iter()
        .filter(|endpoint| endpoint.role.is_none())
        .map(|e| e.path);
    for place in machines.chain(["/", "/v1", "/v1/enclaves/", "/v2/enclaves", "/metrics"]) {
        let answered = site.call(&site.operator, "POST", place, "").await;
        assert_eq!(answered.status, StatusCode::NOT_FOUND, "{place}");
        assert_eq!(answered.code(), "no-endpoint", "{place}");
    }
}
