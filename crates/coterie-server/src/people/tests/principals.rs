//! Principals and tenants.

use coterie_api::v1::{List, Principal, PrincipalMade, Tenant, TenantMade, WhoAmI};
use http::StatusCode;
use serde_json::json;

use super::site::Site;

async fn listed(site: &Site, key: &str) -> Vec<String> {
    let all: List<Principal> = site.get(key, "/v1/principals").await.ok();
    all.items
        .into_iter()
        .map(|principal| principal.name.to_string())
        .collect()
}

#[tokio::test]
async fn a_principal_is_made_revoked_and_forgotten() {
    let site = Site::new().await;
    let owner = site.tenant("acme").await;
    let body = json!({ "name": "clerk", "role": "operator", "ttl_seconds": 3600 });
    let answered = site.post(&owner, "/v1/principals", body.clone()).await;
    assert_eq!(answered.status, StatusCode::CREATED);
    let made: PrincipalMade = answered.ok();
    assert_eq!(made.principal.not_after, Some(made.principal.created + 3600));
    assert_eq!(listed(&site, &owner).await, ["clerk", "owner"]);
    assert_eq!(site.post(&owner, "/v1/principals", body.clone()).await.code(), "exists");
    let place = format!("/v1/principals/{}", made.principal.id);
    for left in [&["clerk", "owner"][..], &["owner"]] {
        assert_eq!(site.delete(&owner, &place).await.status, StatusCode::NO_CONTENT);
        assert_eq!(listed(&site, &owner).await, left);
    }
    assert_eq!(site.delete(&owner, &place).await.code(), "not-found");
    assert_eq!(
        site.get(made.key.expose(), "/v1/whoami").await.code(),
        "unauthenticated"
    );
    site.post(&owner, "/v1/principals", body).await.ok::<PrincipalMade>();
    for body in [
        json!({ "name": "x", "role": "auditor", "ttl_seconds": 0 }),
        json!({ "name": "x", "role": "auditor", "ttl_seconds": u64::MAX }),
        json!({ "name": "X", "role": "auditor" }),
    ] {
        assert_eq!(
            site.post(&owner, "/v1/principals", body.clone()).await.code(),
            "bad-request",
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_last_owner_stays() {
    let site = Site::new().await;
    let owner = site.tenant("acme").await;
    let me: WhoAmI = site.get(&owner, "/v1/whoami").await.ok();
    let place = format!("/v1/principals/{}", me.principal.id);
    assert_eq!(site.delete(&owner, &place).await.code(), "conflict");
    let other = json!({ "name": "other", "role": "owner" });
    let other: PrincipalMade = site.post(&owner, "/v1/principals", other).await.ok();
    assert_eq!(site.delete(&owner, &place).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.get(&owner, "/v1/whoami").await.code(), "key-ended");
    let place = format!("/v1/principals/{}", other.principal.id);
    assert_eq!(site.delete(other.key.expose(), &place).await.code(), "conflict");
}

#[tokio::test]
async fn a_tenant_is_made_with_an_owner_and_goes_when_it_is_empty() {
    let site = Site::new().await;
    let body = json!({ "name": "acme", "owner": "ann" });
    let answered = site.post(&site.operator, "/v1/tenants", body.clone()).await;
    assert_eq!(answered.status, StatusCode::CREATED);
    let made: TenantMade = answered.ok();
    let ann = made.owner.key.expose();
    assert_eq!(made.owner.principal.name.as_str(), "ann");
    assert_eq!(site.post(&site.operator, "/v1/tenants", body).await.code(), "exists");
    site.call(ann, "PUT", "/v1/enclaves/shop", super::site::FILE).await;

    let acme: Tenant = site.get(&site.operator, "/v1/tenants/acme").await.ok();
    assert_eq!((acme.enclaves, &acme.id), (1, &made.tenant.id));
    let all: List<Tenant> = site.get(&site.operator, "/v1/tenants").await.ok();
    assert_eq!(all.items, [acme]);
    assert_eq!(site.get(&site.operator, "/v1/tenants/other").await.code(), "not-found");

    assert_eq!(site.delete(&site.operator, "/v1/tenants/acme").await.code(), "conflict");
    assert_eq!(
        site.delete(ann, "/v1/enclaves/shop").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        site.delete(&site.operator, "/v1/tenants/acme").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(site.get(ann, "/v1/whoami").await.code(), "unauthenticated");
    assert_eq!(
        site.delete(&site.operator, "/v1/tenants/acme").await.code(),
        "not-found"
    );
}
