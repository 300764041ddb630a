//! Who calls, and what roles may.

use coterie_api::v1::{Principal, PrincipalMade, Role, Scope, WhoAmI};
use http::StatusCode;
use serde_json::json;

use super::{
    routes::of_people,
    site::{Site, path, wanted},
};
use crate::clock;

const ROLES: [Role; 4] = [Role::Owner, Role::Admin, Role::Operator, Role::Auditor];

/// A principal of a role; gives its key.
async fn principal(site: &Site, owner: &str, role: Role) -> String {
    let body = json!({ "name": format!("{}-{}", role.as_str(), clock::now().0), "role": role.as_str() });
    let made: PrincipalMade = site.post(owner, "/v1/principals", body).await.ok();
    made.key.expose().to_owned()
}

#[tokio::test]
async fn each_role_may_what_the_table_says() {
    let site = Site::new().await;
    let owner = site.shop("acme").await;
    for (owner, scope, others) in [
        (&owner, Scope::Tenant, Scope::Operator),
        (&site.operator, Scope::Operator, Scope::Tenant),
    ] {
        for role in ROLES {
            let key = principal(&site, owner, role).await;
            for endpoint in of_people() {
                // Of objects that do not exist, so that nothing happens: who may call is told that they do not.
                let place = path(endpoint, |_| "none".to_owned());
                let (query, body) = wanted(endpoint, "none");
                let may = endpoint.role.is_some_and(|least| role.may(least));
                let creates = endpoint.parameters().next().is_none();
                let is_change = endpoint.role != Some(Role::Auditor);
                if may && creates && is_change {
                    continue;
                }
                let answered = site
                    .call(&key, endpoint.method.as_str(), &format!("{place}{query}"), body)
                    .await;
                let words = format!("{} as {}: {answered:?}", endpoint.path, role.as_str());
                match answered.status {
                    StatusCode::FORBIDDEN => {
                        assert!(!may || (endpoint.scope == others && creates), "{words}");
                        assert_eq!(answered.code(), "forbidden");
                    }
                    StatusCode::NOT_FOUND => {
                        assert!(!creates && (may || endpoint.scope == others), "{words}");
                        assert_eq!(answered.code(), "not-found");
                    }
                    // The file is of another enclave than the path says.
                    StatusCode::UNPROCESSABLE_ENTITY => {
                        assert!(
                            may && endpoint.scope == Scope::Tenant && scope == Scope::Tenant,
                            "{words}"
                        );
                    }
                    status => assert!(status.is_success() && may && creates, "{words}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn without_a_good_key_nothing_is_told() {
    let site = Site::new().await;
    let owner = site.shop("acme").await;
    let stranger = crate::make::key_text(&coterie_crypto::Secret::new([9; 32]));
    for key in ["", "coterie-key-1.", stranger.as_str(), &owner[..owner.len() - 1]] {
        for place in [
            "/v1/whoami",
            "/v1/enclaves/shop",
            "/v1/enclaves/none",
            "/v1/audit?limit=x",
        ] {
            let answered = site.get(key, place).await;
            assert_eq!(answered.status, StatusCode::UNAUTHORIZED, "{place} {key}");
            assert_eq!(answered.headers["www-authenticate"], "Bearer realm=\"coterie\"");
            assert_eq!(answered.code(), "unauthenticated");
        }
    }
    let bare = http::Request::get("/v1/whoami")
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(site.send(bare).await.code(), "unauthenticated");
}

#[tokio::test]
async fn one_who_calls_is_told_who_it_is_and_the_call_is_noted_once_an_hour() {
    let site = Site::new().await;
    let owner = site.tenant("acme").await;
    let me: WhoAmI = site.get(&owner, "/v1/whoami").await.ok();
    assert_eq!(
        (me.tenant.unwrap().as_str(), me.principal.name.as_str()),
        ("acme", "owner")
    );
    assert_eq!((me.principal.role, me.principal.last_used), (Role::Owner, None));
    assert_eq!(me.server_version, env!("CARGO_PKG_VERSION"));
    let again: WhoAmI = site.get(&owner, "/v1/whoami").await.ok();
    assert!(
        again
            .principal
            .last_used
            .is_some_and(|last| last.abs_diff(clock::now().0) < 60)
    );
    let operator: WhoAmI = site.get(&site.operator, "/v1/whoami").await.ok();
    assert_eq!((operator.tenant, operator.principal.name.as_str()), (None, "first"));
}

#[tokio::test]
async fn a_key_that_expired_or_was_revoked_is_told_so() {
    let site = Site::new().await;
    let owner = site.tenant("acme").await;
    let body = json!({ "name": "brief", "role": "auditor", "ttl_seconds": 1 });
    let brief: PrincipalMade = site.post(&owner, "/v1/principals", body).await.ok();
    let clerk: PrincipalMade = site
        .post(&owner, "/v1/principals", json!({ "name": "clerk", "role": "auditor" }))
        .await
        .ok();
    let whoami = |key: String| {
        let site = &site;
        async move { site.get(&key, "/v1/whoami").await }
    };
    assert_eq!(whoami(clerk.key.expose().to_owned()).await.status, StatusCode::OK);
    let place = format!("/v1/principals/{}", clerk.principal.id);
    assert_eq!(site.delete(&owner, &place).await.status, StatusCode::NO_CONTENT);
    assert_eq!(whoami(clerk.key.expose().to_owned()).await.code(), "key-ended");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let answered = whoami(brief.key.expose().to_owned()).await;
        if answered.status == StatusCode::UNAUTHORIZED {
            assert_eq!(answered.code(), "key-ended");
            break;
        }
        assert!(std::time::Instant::now() < until, "a key of one second is good for ten");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let known: coterie_api::v1::List<Principal> = site.get(&owner, "/v1/principals").await.ok();
    let revoked: Vec<_> = known
        .items
        .iter()
        .filter(|p| p.revoked.is_some())
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(revoked, ["clerk"]);
}

#[tokio::test]
async fn what_would_not_be_read_is_refused() {
    let site = Site::new().await;
    let owner = site.shop("acme").await;
    for place in [
        "/v1/enclaves/shop?dry_run=true",
        "/v1/enclaves/shop/members/web-1?dry_run=true",
    ] {
        assert_eq!(site.delete(&owner, place).await.code(), "bad-request", "{place}");
    }
    for place in [
        "/v1/audit?aftr=1",
        "/v1/audit?limit=0",
        "/v1/audit?after=18446744073709551615",
    ] {
        assert_eq!(site.get(&owner, place).await.code(), "bad-request", "{place}");
    }
    for body in [
        "",
        "{",
        "[]",
        "{\"name\":\"x\",\"role\":\"king\"}",
        "{\"name\":\"x\",\"role\":\"auditor\",\"admin\":true}",
    ] {
        let answered = site.call(&owner, "POST", "/v1/principals", body).await;
        assert_eq!(answered.code(), "bad-request", "{body}");
    }
    let long = " ".repeat(coterie_api::v1::MAX_BODY + 1);
    assert_eq!(
        site.call(&owner, "POST", "/v1/principals", long).await.code(),
        "too-large"
    );
}
