//! What belongs to one tenant does not exist for another, whatever the names are.
//!
//! The matrix is made from the table of endpoints: each is called by strangers on each object of a tenant that its path can
//! name. What is expected of an endpoint is stated once, and one that nothing is stated of fails.

use std::collections::{BTreeMap, BTreeSet};

use coterie_api::v1::{ENDPOINTS, Endpoint, List, Method, PrincipalMade, Scope, TokenMade, WhoAmI};
use coterie_store::Scope as Owner;
use http::StatusCode;
use serde_json::json;

use super::{
    routes::of_people,
    site::{Answered, FILE, Site, path, wanted},
};
use crate::nodes::of_nodes;

/// What a stranger finds who calls an endpoint on another's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// That there is no such object.
    NotFound,
    /// Its own object of that name, which is made by this.
    MakesItsOwn,
    /// The path names no object: the caller's own, and nothing of others.
    OwnAlone,
    /// Nothing: the endpoint is for the operator alone.
    Forbidden,
}

/// The row of an endpoint; `None` for one that nothing is stated of.
fn row(endpoint: &Endpoint) -> Option<Row> {
    Some(match (endpoint.method, endpoint.path) {
        (Method::Get, "/v1/whoami" | "/v1/enclaves" | "/v1/principals" | "/v1/audit")
        | (Method::Post, "/v1/principals") => Row::OwnAlone,
        (Method::Get | Method::Post, "/v1/tenants") => Row::Forbidden,
        (Method::Put, "/v1/enclaves/{e}") => Row::MakesItsOwn,
        (Method::Get | Method::Delete, "/v1/tenants/{t}" | "/v1/enclaves/{e}")
        | (Method::Get, "/v1/enclaves/{e}/file")
        | (Method::Get, "/v1/enclaves/{e}/communities")
        | (Method::Post, "/v1/enclaves/{e}/communities/{c}/rotate-key")
        | (Method::Get, "/v1/enclaves/{e}/members")
        | (Method::Post, "/v1/enclaves/{e}/members/end")
        | (Method::Get | Method::Delete, "/v1/enclaves/{e}/members/{m}")
        | (Method::Post, "/v1/enclaves/{e}/members/{m}/isolate")
        | (Method::Post, "/v1/enclaves/{e}/members/{m}/release")
        | (Method::Post, "/v1/enclaves/{e}/members/{m}/revoke")
        | (Method::Post, "/v1/enclaves/{e}/members/{m}/bundle")
        | (Method::Get | Method::Post, "/v1/enclaves/{e}/tokens")
        | (Method::Get | Method::Delete, "/v1/enclaves/{e}/tokens/{k}")
        | (Method::Get, "/v1/enclaves/{e}/explain")
        | (Method::Post, "/v1/enclaves/{e}/root/rotate")
        | (Method::Delete, "/v1/principals/{p}") => Row::NotFound,
        _ => return None,
    })
}

#[test]
fn something_is_stated_of_each_endpoint() {
    let silent: Vec<_> = of_people().filter(|endpoint| row(endpoint).is_none()).collect();
    assert!(silent.is_empty(), "endpoints without a row in the matrix: {silent:?}");
    for endpoint in of_people() {
        let names_object = endpoint.parameters().next().is_some();
        let row = row(endpoint).unwrap();
        assert_eq!(
            names_object,
            matches!(row, Row::NotFound | Row::MakesItsOwn),
            "{endpoint:?}"
        );
    }
    // The rows of machines are in `tests/people/main.rs`, one for each of these.
    assert_eq!(of_nodes().count() + of_people().count(), ENDPOINTS.len());
}

/// A tenant with one of everything, and what its objects are called.
struct Holder {
    key: String,
    objects: BTreeMap<&'static str, Vec<String>>,
}

/// Makes a tenant whose objects have the same names as those of every other that this makes.
async fn holder(site: &Site, tenant: &str) -> Holder {
    let key = site.shop(tenant).await;
    site.enrol(&key, "web-1").await;
    let token = json!({ "template": "web", "ttl_seconds": 600 });
    let token: TokenMade = site.post(&key, "/v1/enclaves/shop/tokens", token).await.ok();
    let clerk = json!({ "name": "clerk", "role": "auditor" });
    let clerk: PrincipalMade = site.post(&key, "/v1/principals", clerk).await.ok();
    let owner: WhoAmI = site.get(&key, "/v1/whoami").await.ok();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let objects = BTreeMap::from([
        ("t", vec![tenant.to_owned()]),
        ("e", words("shop")),
        ("c", words("web db")),
        ("m", words("web-1 db-1")),
        ("k", vec![token.id]),
        ("p", vec![clerk.principal.id, owner.principal.id]),
    ]);
    Holder { key, objects }
}

impl Holder {
    /// Every way to name this tenant's objects in an endpoint's path.
    fn paths(&self, endpoint: &Endpoint) -> Vec<(String, String)> {
        let mut ways: Vec<BTreeMap<&str, &String>> = vec![BTreeMap::new()];
        for parameter in endpoint.parameters() {
            let each = |way: BTreeMap<&'static str, _>| {
                let objects = self.objects[parameter].iter();
                objects.map(move |object| way.iter().map(|(k, v)| (*k, *v)).chain([(parameter, object)]).collect())
            };
            ways = ways.into_iter().flat_map(each).collect();
        }
        let member = |way: &BTreeMap<&str, &String>| way.get("m").map_or_else(|| "web-1".to_owned(), |m| (*m).clone());
        let place = |way: &BTreeMap<&str, &String>| path(endpoint, |parameter| way[parameter].clone());
        ways.iter().map(|way| (place(way), member(way))).collect()
    }
}

async fn call(site: &Site, key: &str, endpoint: &Endpoint, (place, member): &(String, String)) -> Answered {
    let (query, body) = wanted(endpoint, member);
    site.call(key, endpoint.method.as_str(), &format!("{place}{query}"), body)
        .await
}

/// All that the store has of a tenant, in words.
async fn everything(site: &Site, tenant: &str) -> Vec<String> {
    let mut read = site.server.store.read().await.unwrap();
    let tenant = read.tenant_by_name(&super::site::name(tenant)).await.unwrap().unwrap();
    let owner = Owner::Tenant(tenant.id);
    let mut words = vec![format!("{tenant:?}")];
    for enclave in read.enclaves(tenant.id).await.unwrap() {
        let records = read.records(enclave.id).await.unwrap();
        words.extend(
            records
                .iter()
                .map(|r| format!("{} {} {:02x?}", r.kind, r.key, r.value.as_slice())),
        );
        words.extend(
            read.tokens(enclave.id)
                .await
                .unwrap()
                .iter()
                .map(|token| format!("{token:?}")),
        );
        words.push(format!("{enclave:?}"));
    }
    words.extend(
        read.principals(owner)
            .await
            .unwrap()
            .iter()
            .map(|principal| format!("{principal:?}")),
    );
    words.extend(
        read.audit(owner, 0, 1_000)
            .await
            .unwrap()
            .iter()
            .map(|row| format!("{row:?}")),
    );
    words
}

/// What tells a tenant's objects from those of others that are called the same: identifiers, keys, hashes.
async fn marks(site: &Site, holder: &Holder, tenant: &str) -> BTreeSet<String> {
    let summary = site
        .get(&holder.key, "/v1/enclaves/shop")
        .await
        .ok::<coterie_api::v1::EnclaveSummary>();
    let member = site
        .get(&holder.key, "/v1/enclaves/shop/members/web-1")
        .await
        .ok::<coterie_api::v1::Member>();
    let communities: List<coterie_api::v1::Community> =
        site.get(&holder.key, "/v1/enclaves/shop/communities").await.ok();
    let ids = ["k", "p"].iter().flat_map(|kind| holder.objects[kind].clone());
    let tags = communities.items.into_iter().map(|community| community.tag);
    ids.chain(tags)
        .chain([tenant.to_owned(), summary.id, summary.root_hash])
        .chain(member.member_id)
        .chain(member.fingerprint)
        .collect()
}

#[tokio::test]
async fn to_who_has_nothing_the_objects_of_others_do_not_exist() {
    let site = Site::new().await;
    let theirs = holder(&site, "victim").await;
    let before = everything(&site, "victim").await;
    let stranger = site.tenant("stranger").await;
    for endpoint in of_people() {
        for way in theirs.paths(endpoint) {
            let answered = call(&site, &stranger, endpoint, &way).await;
            let words = format!("{} {}: {answered:?}", endpoint.method, way.0);
            match row(endpoint).unwrap() {
                Row::NotFound => {
                    assert_eq!(answered.status, StatusCode::NOT_FOUND, "{words}");
                    assert_eq!(answered.code(), "not-found", "{words}");
                }
                Row::Forbidden => assert_eq!(answered.code(), "forbidden", "{words}"),
                Row::MakesItsOwn => {
                    assert_eq!(answered.status, StatusCode::CREATED, "{words}");
                    assert_eq!(site.delete(&stranger, &way.0).await.status, StatusCode::NO_CONTENT);
                }
                Row::OwnAlone => assert!(answered.status.is_success(), "{words}"),
            }
        }
    }
    assert_eq!(everything(&site, "victim").await, before);
}

#[tokio::test]
async fn to_who_has_an_enclave_of_that_name_what_is_in_the_other_does_not_exist() {
    let site = Site::new().await;
    let theirs = holder(&site, "victim").await;
    let before = everything(&site, "victim").await;
    let stranger = site.tenant("stranger").await;
    let other = FILE
        .replace("web-1", "app-1")
        .replace("db-1", "log-1")
        .replace("\"web\"", "\"app\"");
    let other = other
        .replace("\"db\"", "\"log\"")
        .replace(".web]", ".app]")
        .replace(".db]", ".log]");
    let made = site.call(&stranger, "PUT", "/v1/enclaves/shop", other).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let mut named = 0;
    for endpoint in of_people() {
        let inside = endpoint.parameters().any(|parameter| !["t", "e"].contains(&parameter));
        for way in theirs.paths(endpoint).iter().filter(|_| inside) {
            let answered = call(&site, &stranger, endpoint, way).await;
            assert_eq!(answered.code(), "not-found", "{} {}", endpoint.method, way.0);
            named += 1;
        }
    }
    assert!(named > 15, "{named} objects were named");
    assert_eq!(everything(&site, "victim").await, before);
}

#[tokio::test]
async fn who_has_the_same_names_everywhere_finds_its_own() {
    let site = Site::new().await;
    let theirs = holder(&site, "victim").await;
    let marks = marks(&site, &theirs, "victim").await;
    assert_eq!(marks.len(), 10, "{marks:?}");
    let before = everything(&site, "victim").await;
    for (n, endpoint) in of_people().enumerate() {
        let twin = holder(&site, &format!("twin-{n}")).await;
        // By identifiers, which no two share.
        if endpoint
            .parameters()
            .any(|parameter| ["k", "p", "t"].contains(&parameter))
        {
            for way in theirs.paths(endpoint) {
                let answered = call(&site, &twin.key, endpoint, &way).await;
                assert_eq!(answered.code(), "not-found", "{} {}", endpoint.method, way.0);
            }
        }
        let is_operators = endpoint.scope == Scope::Operator;
        // The first of its own, so that the one who calls stays.
        let way = &twin.paths(endpoint)[0];
        let answered = call(&site, &twin.key, endpoint, way).await;
        let words = format!("{} {}: {answered:?}", endpoint.method, way.0);
        assert_eq!(answered.status.is_success(), !is_operators, "{words}");
        let seen = marks.iter().find(|mark| answered.text.contains(*mark));
        assert_eq!(seen, None, "{words}");
        assert_eq!(everything(&site, "victim").await, before, "{words}");
    }
}

#[tokio::test]
async fn the_operator_sees_tenants_and_nothing_that_is_theirs() {
    let site = Site::new().await;
    let theirs = holder(&site, "victim").await;
    let before = everything(&site, "victim").await;
    for endpoint in of_people().filter(|endpoint| endpoint.scope != Scope::Operator) {
        for way in theirs.paths(endpoint) {
            let answered = call(&site, &site.operator, endpoint, &way).await;
            let words = format!("{} {}: {answered:?}", endpoint.method, way.0);
            match (endpoint.scope, endpoint.parameters().next()) {
                (_, Some(_)) => assert_eq!(answered.code(), "not-found", "{words}"),
                (Scope::Tenant, None) => assert_eq!(answered.code(), "forbidden", "{words}"),
                (_, None) => assert!(answered.status.is_success(), "{words}"),
            }
        }
    }
    assert_eq!(everything(&site, "victim").await, before);
}
