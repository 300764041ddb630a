//! A server in a directory of its own, with an operator, and whatever tenants a test makes.

use std::sync::Arc;

use axum::{Router, body::Body};
use coterie_api::v1::{Endpoint, Member, Method, Problem, TenantMade};
use coterie_control::{
    bundle::{Keys, Request},
    follow::Message,
};
use coterie_crypto::Secret;
use coterie_model::Name;
use coterie_store::{NewPrincipal, Role, Scope, Store};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt as _;

use crate::{clock, entropy::SystemEntropy, keeper::Keeper, make::key_text, metrics::Metrics, registry::Server};

/// The file of every enclave that a test says nothing else about.
pub(super) const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/24"]
[community.web]
[community.db]
[template.web]
communities = ["web"]
[template.db]
communities = ["web", "db"]
[member.web-1]
template = "web"
[member.db-1]
template = "db"
[[tests]]
name = "the shop reaches its database"
from = "web-1"
to = "db-1"
reach = true
"#;

pub(super) struct Site {
    pub(super) server: Arc<Server>,
    pub(super) router: Router,
    /// The key of the operator's first principal.
    pub(super) operator: String,
    stop: watch::Sender<bool>,
    _directory: tempfile::TempDir,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answered {
    /// What it says, where it was done.
    pub(super) fn ok<T: DeserializeOwned>(self) -> T {
        assert!(self.status.is_success(), "{self:?}");
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Why it was not done.
    pub(super) fn problem(self) -> Problem {
        assert!(!self.status.is_success(), "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem: Problem = serde_json::from_str(&self.text).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        assert!(!problem.detail.is_empty(), "{problem:?}");
        problem
    }

    /// The code of why it was not done.
    pub(super) fn code(self) -> String {
        self.problem().code
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn names(text: &str) -> Vec<Name> {
    text.split_whitespace().map(name).collect()
}

impl Site {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("coterie.db");
        let entropy = &mut SystemEntropy;
        let store = Store::open(&path, Secret::new([7; 32]), clock::now(), entropy)
            .await
            .unwrap();
        let mut w = store.write().await.unwrap();
        let first = NewPrincipal {
            scope: Scope::Operator,
            name: "first",
            role: Role::Owner,
            not_after: None,
        };
        let (_, secret) = w.create_principal(&first, clock::now(), entropy).await.unwrap();
        w.commit().await.unwrap();
        let (stop, stopping) = watch::channel(false);
        let servers = vec!["192.0.2.1:4750".parse().unwrap()];
        let server = Server::start(Arc::new(store), Arc::new(Metrics::new()), servers, stopping);
        let server = server.await.unwrap();
        Self {
            router: super::super::router(Arc::clone(&server)),
            server,
            operator: key_text(&secret).to_string(),
            stop,
            _directory: directory,
        }
    }

    /// Tells whoever waits that the server stops.
    pub(super) fn stop(&self) {
        self.stop.send(true).unwrap();
    }

    pub(super) async fn send(&self, request: http::Request<Body>) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert_eq!(parts.headers["cache-control"], "no-store");
        Answered {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(super) async fn call(&self, key: &str, method: &str, path: &str, body: impl Into<Body>) -> Answered {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {key}"));
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(super) async fn get(&self, key: &str, path: &str) -> Answered {
        self.call(key, "GET", path, Body::empty()).await
    }

    pub(super) async fn post(&self, key: &str, path: &str, body: Value) -> Answered {
        self.call(key, "POST", path, body.to_string()).await
    }

    pub(super) async fn delete(&self, key: &str, path: &str) -> Answered {
        self.call(key, "DELETE", path, Body::empty()).await
    }

    /// A new tenant; gives its owner's key.
    pub(super) async fn tenant(&self, tenant: &str) -> String {
        let made = self
            .post(&self.operator, "/v1/tenants", json!({ "name": tenant }))
            .await;
        made.ok::<TenantMade>().owner.key.expose().to_owned()
    }

    /// A new tenant with an enclave; gives its owner's key.
    pub(super) async fn shop(&self, tenant: &str) -> String {
        let key = self.tenant(tenant).await;
        let made = self.call(&key, "PUT", "/v1/enclaves/shop", FILE).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        key
    }

    /// Enrols a machine by hand as a member of `shop`.
    pub(super) async fn enrol(&self, key: &str, member: &str) -> Member {
        let path = format!("/v1/enclaves/shop/members/{member}");
        let bundle = self.call(key, "POST", &format!("{path}/bundle"), request(member)).await;
        assert_eq!(bundle.status, StatusCode::OK, "{bundle:?}");
        assert!(bundle.text.contains("COTERIE BUNDLE"), "{bundle:?}");
        self.get(key, &path).await.ok()
    }

    /// The keeper of `shop`.
    pub(super) async fn keeper(&self, tenant: &str) -> Keeper {
        let tenant = self
            .server
            .store
            .read()
            .await
            .unwrap()
            .tenant_by_name(&name(tenant))
            .await;
        let tenant = tenant.unwrap().unwrap().id;
        self.server.keeper(tenant, &name("shop")).await.unwrap()
    }
}

/// What a machine asks with that is enrolled by hand.
pub(super) fn request(member: &str) -> String {
    let keys = Keys::generate(name(member), &mut SystemEntropy);
    Request::new(&keys).unwrap().to_text()
}

/// A member that follows: what it is told, message by message. Acknowledging is the test's to do.
pub(super) struct Follower {
    pub(super) name: Name,
    heard: mpsc::Receiver<bytes::Bytes>,
}

impl Follower {
    pub(super) fn enter(keeper: &Keeper, member: &str) -> Self {
        let (say, heard) = mpsc::channel(8);
        keeper.presence.enter(&name(member), NOBODY, say);
        Self {
            name: name(member),
            heard,
        }
    }

    /// The next message that is for it alone.
    pub(super) async fn next(&mut self) -> Message {
        let framed = self.heard.recv().await.unwrap();
        // Four bytes of length come first.
        Message::parse(&framed[4..]).unwrap()
    }
}

/// The path of an endpoint, with objects in the place of the names in braces.
pub(super) fn path(endpoint: &Endpoint, object: impl Fn(&str) -> String) -> String {
    let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(parameter) => object(parameter),
        None => part.to_owned(),
    };
    endpoint.path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// A body, and query, with which an endpoint does what it is for.
pub(super) fn wanted(endpoint: &Endpoint, member: &str) -> (&'static str, String) {
    let body = match (endpoint.method, endpoint.path) {
        (Method::Post, "/v1/tenants") => json!({ "name": "another" }).to_string(),
        (Method::Put, "/v1/enclaves/{e}") => FILE.to_owned(),
        (Method::Post, "/v1/enclaves/{e}/communities/{c}/rotate-key") => json!({ "kind": "removal" }).to_string(),
        (Method::Post, "/v1/enclaves/{e}/members/end") => json!({ "names": [member] }).to_string(),
        (Method::Post, "/v1/enclaves/{e}/members/{m}/bundle") => request(member),
        (Method::Post, "/v1/enclaves/{e}/tokens") => json!({ "template": "web", "ttl_seconds": 60 }).to_string(),
        (Method::Post, "/v1/principals") => json!({ "name": "another", "role": "auditor" }).to_string(),
        _ => String::new(),
    };
    let query = match endpoint.path {
        "/v1/enclaves/{e}/explain" => "?from=web-1&to=db-1",
        _ => "",
    };
    (query, body)
}

/// An enrolment that these followers say they have.
pub(super) const NOBODY: coterie_model::MemberId = coterie_model::MemberId([7; 16]);
