//! What belongs to one tenant does not exist for the machines of another: the rows of the matrix that machines call. Those that
//! people call are beside the router (`src/people/tests/isolation.rs`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use coterie_api::{
    remote::{Connection, Identity, RemoteError, Response, Tls, Trust, dial},
    v1::{CutOff, ENDPOINTS, Endpoint, MemberState, Scope, node_server_name, problem::code},
};
use coterie_control::{
    bundle::Request,
    enrol::{Application, REFUSED, Token, seal},
    file::Facts,
    follow::Message,
};
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

#[path = "../nodes/machine.rs"]
#[expect(dead_code, reason = "the tests of nodes use more of it")]
mod machine;
#[path = "../nodes/site.rs"]
#[expect(dead_code, reason = "the tests of nodes use more of it")]
mod site;

use machine::{Kernel, Machine, Person};
use site::{FILE, Site};

/// A tenant with an enclave and a member, all named as those of the other one.
struct Holder {
    owner: Person,
    machine: Machine,
    token: Token,
    /// Whom the enclave refuses, as its members are told it.
    list: Vec<u8>,
}

async fn holder(site: &Site, tenant: &str) -> Holder {
    let owner = site.tenant(tenant).await;
    let _applied = owner.apply("shop", FILE).await.unwrap();
    let token = owner.token("web", 2).await;
    let mut machine = Machine::new("web-1", &token);
    machine.enrol(&token).await.unwrap();
    let list = list(&owner).await;
    Holder {
        owner,
        machine,
        token,
        list,
    }
}

/// A list of revocations, from the mouth of the server; whom it is about and who heard it are gone then.
async fn list(owner: &Person) -> Vec<u8> {
    let token = owner.token("web", 2).await;
    let (mut hears, mut goes) = (Machine::new("web-2", &token), Machine::new("web-3", &token));
    hears.enrol(&token).await.unwrap();
    goes.enrol(&token).await.unwrap();
    let mut told = hears.follow(0).await.unwrap();
    let revoke = |named: &str| format!("/v1/enclaves/shop/members/{named}/revoke?wait_ms=0");
    let _cut: CutOff = owner.post(&revoke("web-3"), &()).await.unwrap();
    let is_list = |message: &Message| {
        let Message::Revocations(list) = message else {
            return None;
        };
        (!list.claimed().entries.is_empty()).then(|| list.bytes().to_vec())
    };
    let list = told.until(5, is_list).await;
    let _cut: CutOff = owner.post(&revoke("web-2"), &()).await.unwrap();
    list
}

impl Holder {
    /// What would change if a machine did something in its enclave.
    async fn members(&self) -> Vec<(String, MemberState, Option<String>, u64)> {
        let members = self.owner.members().await.into_iter();
        members
            .map(|m| (m.name.to_string(), m.state, m.member_id, m.serial))
            .collect()
    }

    /// A connection to the server name of another's enclave with this one's certificate, and with what vouches for it.
    async fn astray(&self, other: &Self) -> Result<Connection, RemoteError> {
        let (own, theirs) = (
            self.machine.opened.as_ref().unwrap(),
            other.machine.opened.as_ref().unwrap(),
        );
        let identity = Identity {
            chain: vec![own.identity_certificate.clone(), own.root_certificate.clone()],
            key: self.machine.keys.identity_key().to_pkcs8().unwrap().into(),
        };
        let trust = Trust::Authority(vec![theirs.root_certificate.clone()]);
        let tls = Tls::new(trust, Some(identity), true).unwrap();
        let server = other.machine.server;
        let stream = dial(&server.ip().to_string(), server.port()).await?;
        Connection::open(stream, &node_server_name(other.machine.enclave), &tls).await
    }

    /// A body with which its machine would be served.
    fn body(&self, endpoint: &Endpoint) -> Bytes {
        let keys = self.machine.keys.for_delivery(&mut Kernel);
        let request = Request::new(&keys).unwrap();
        match endpoint.path {
            "/v1/enrol" => {
                let application = Application {
                    request,
                    facts: Facts::default(),
                    ticket: None,
                };
                let sealed = seal(&self.token, &keys.static_key(), &application, &mut Kernel).unwrap();
                sealed.bytes.clone().into()
            }
            "/v1/node/follow" => json!({ "mark": 0, "revocations": 0, "serial": 0 }).to_string().into(),
            "/v1/node/bundle" => request.to_text().into(),
            "/v1/node/ack" => json!({ "mark": 1 }).to_string().into(),
            "/v1/node/resolve" => json!({ "name": "web-1" }).to_string().into(),
            "/v1/node/explained" => json!({ "id": 1 }).to_string().into(),
            "/v1/node/ready" => json!({ "version": "0", "boot": "0" }).to_string().into(),
            "/v1/node/revocations" => self.list.clone().into(),
            "/v1/node/bye" => Bytes::new(),
            other => panic!("nothing is stated of {other}: say what it reads, and who may not call it"),
        }
    }
}

fn of_machines() -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS
        .iter()
        .filter(|endpoint| matches!(endpoint.scope, Scope::Visitor | Scope::Member))
}

async fn call(connection: &Connection, endpoint: &Endpoint, body: Bytes) -> Result<Response, RemoteError> {
    connection
        .request(Method::POST, endpoint.path, machine::json(), body, 4 << 20)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_another_enclave_are_let_in_nowhere() {
    let site = Site::start();
    let (theirs, ours) = (holder(&site, "acme").await, holder(&site, "other").await);
    let before = theirs.members().await;
    for endpoint in of_machines() {
        // By the certificate of a member of that name, in an enclave of that name: TLS itself refuses it.
        let answered = match ours.astray(&theirs).await {
            Ok(connection) => call(&connection, endpoint, ours.body(endpoint)).await,
            Err(error) => Err(error),
        };
        assert!(
            matches!(
                answered,
                Err(RemoteError::NotAccepted { .. } | RemoteError::Broken { .. })
            ),
            "{}: {answered:?}",
            endpoint.path
        );
        // Without one.
        let visitor = theirs.machine.visitor().await;
        let answered = call(&visitor, endpoint, ours.body(endpoint)).await.unwrap();
        if endpoint.scope == Scope::Visitor {
            // A token of another enclave: nothing tells it from one that nobody knows.
            assert_eq!((answered.status, &answered.body[..]), (StatusCode::OK, REFUSED));
        } else {
            let problem = answered.accepted().unwrap_err();
            assert_eq!(problem.code(), Some(code::NOT_A_MEMBER), "{}", endpoint.path);
        }
    }
    assert_eq!(theirs.members().await, before);
    // At its own server name each is answered: it is whose it is that made the difference.
    for endpoint in of_machines() {
        let connection = ours.machine.member().await.unwrap();
        let served = match endpoint.path {
            "/v1/node/follow" => {
                let body = ours.body(endpoint);
                let stream = connection.stream(Method::POST, endpoint.path, machine::json(), body);
                stream.await.is_ok()
            }
            _short => {
                let answered = call(&connection, endpoint, ours.body(endpoint)).await.unwrap();
                answered.status.is_success() && answered.body != REFUSED
            }
        };
        assert!(served, "{}", endpoint.path);
    }
    assert_eq!(theirs.members().await, before);
    assert!(
        ours.owner.members().await.iter().all(|m| m.member_id.is_none()),
        "web-1 said that it goes"
    );
}

/// The server's own port for people knows no machine's path, and an enclave's no person's.
#[tokio::test(flavor = "multi_thread")]
async fn people_and_machines_have_a_door_each() {
    let site = Site::start();
    let ours = holder(&site, "acme").await;
    for endpoint in of_machines() {
        let body = ours.body(endpoint).to_vec();
        let answered = ours
            .owner
            .call(Method::POST, endpoint.path, "application/json", body)
            .await;
        let problem = answered.unwrap().accepted().unwrap_err();
        assert_eq!(problem.code(), Some(code::NO_ENDPOINT), "{}", endpoint.path);
    }
    let connection = ours.machine.member().await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", ours.owner.key()).parse().unwrap());
    for place in ["/v1/whoami", "/v1/enclaves", "/v1/enclaves/shop/members"] {
        let answered = connection
            .request(Method::GET, place, headers.clone(), Bytes::new(), 1 << 20)
            .await;
        let problem = answered.unwrap().accepted().unwrap_err();
        assert_eq!(problem.code(), Some(code::NO_ENDPOINT), "{place}");
    }
}
