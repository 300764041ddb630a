//! The audit log, as its owner reads it.

use std::time::{Duration, Instant};

use coterie_api::v1::{AuditPage, PrincipalMade};
use http::StatusCode;
use serde_json::json;

use super::site::{FILE, Site};

async fn page(site: &Site, key: &str, query: &str) -> AuditPage {
    site.get(key, &format!("/v1/audit{query}")).await.ok()
}

fn actions(page: &AuditPage) -> Vec<&str> {
    page.entries.iter().map(|entry| entry.action.as_str()).collect()
}

#[tokio::test]
async fn each_change_has_its_line_and_reading_has_none() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    site.enrol(&key, "web-1").await;
    site.post(&key, "/v1/enclaves/shop/members/web-1/isolate", json!(null))
        .await;
    site.post(&key, "/v1/enclaves/shop/members/web-1/isolate", json!(null))
        .await;
    site.post(&key, "/v1/enclaves/shop/members/web-1/release", json!(null))
        .await;
    site.post(&key, "/v1/enclaves/shop/members/web-1/revoke", json!(null))
        .await;
    site.enrol(&key, "db-1").await;
    site.delete(&key, "/v1/enclaves/shop/members/db-1").await;
    site.post(
        &key,
        "/v1/enclaves/shop/communities/web/rotate-key",
        json!({ "kind": "removal" }),
    )
    .await;
    let token = json!({ "template": "web", "ttl_seconds": 60 });
    let token: coterie_api::v1::TokenMade = site.post(&key, "/v1/enclaves/shop/tokens", token).await.ok();
    site.delete(&key, &format!("/v1/enclaves/shop/tokens/{}", token.id))
        .await;
    site.call(&key, "PUT", "/v1/enclaves/shop", FILE).await;
    site.call(&key, "PUT", "/v1/enclaves/shop", format!("{FILE}[community.log]\n"))
        .await;
    site.call(&key, "PUT", "/v1/enclaves/shop", "nonsense").await;
    let clerk: PrincipalMade = site
        .post(&key, "/v1/principals", json!({ "name": "clerk", "role": "auditor" }))
        .await
        .ok();
    let clerk_place = format!("/v1/principals/{}", clerk.principal.id);
    site.delete(&key, &clerk_place).await;
    site.delete(&key, &clerk_place).await;
    site.delete(&key, "/v1/enclaves/shop").await;
    let log = page(&site, &key, "").await;
    assert_eq!(
        actions(&log),
        [
            "principal.create",
            "enclave.create",
            "member.admit",
            "member.isolate",
            "member.release",
            "member.revoke",
            "member.admit",
            "member.end",
            "coi.rotate-key",
            "token.create",
            "token.revoke",
            "enclave.apply",
            "principal.create",
            "principal.revoke",
            "principal.remove",
            "enclave.remove",
        ]
    );
    assert_eq!(log.entries[0].actor, "operator first");
    assert!(log.entries[1..].iter().all(|entry| entry.actor == "owner"), "{log:?}");
    assert_eq!(
        (log.entries[3].object.as_str(), log.entries[3].hash.len()),
        ("shop/web-1", 64)
    );
    assert!(!serde_json::to_string(&log).unwrap().contains(token.text.expose()));
    let operators = page(&site, &site.operator, "").await;
    assert_eq!(actions(&operators), ["tenant.create"]);
    assert_eq!(
        site.delete(&site.operator, "/v1/tenants/acme").await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        actions(&page(&site, &site.operator, "").await),
        ["tenant.create", "tenant.remove"]
    );
}

#[tokio::test]
async fn it_is_read_page_by_page() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let other = site.shop("other").await;
    for n in 0..4 {
        site.post(
            &key,
            "/v1/principals",
            json!({ "name": format!("p{n}"), "role": "auditor" }),
        )
        .await;
        site.post(
            &other,
            "/v1/principals",
            json!({ "name": format!("p{n}"), "role": "auditor" }),
        )
        .await;
    }
    let all = page(&site, &key, "?after=0").await;
    assert_eq!(all.entries.len(), 6);
    assert_eq!(all.next, all.entries[5].seq);
    let newest = page(&site, &key, "?limit=2").await;
    assert_eq!(newest.entries, all.entries[4..]);
    let mut pages = Vec::new();
    let mut after = 0;
    loop {
        let page = page(&site, &key, &format!("?after={after}&limit=4")).await;
        if page.entries.is_empty() {
            assert_eq!(page.next, after);
            break;
        }
        assert!(page.entries.len() <= 4 && page.next > after);
        after = page.next;
        pages.extend(page.entries);
    }
    assert_eq!(pages, all.entries);
}

#[tokio::test]
async fn one_who_waits_is_told_when_something_happens() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let after = page(&site, &key, "").await.next;
    let began = Instant::now();
    let empty = page(&site, &key, &format!("?after={after}&wait=1")).await;
    assert!(empty.entries.is_empty() && began.elapsed() >= Duration::from_secs(1));
    let waiting = format!("?after={after}&wait=60");
    let (log, ()) = tokio::join!(page(&site, &key, &waiting), async {
        site.post(&key, "/v1/principals", json!({ "name": "clerk", "role": "auditor" }))
            .await;
    });
    assert_eq!(actions(&log), ["principal.create"]);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // So many may wait and no more; the others are told at once, and who does not wait is not concerned.
    let waiting = format!("/v1/audit?after={}&wait=2", log.next);
    let statuses = super::enclaves::together((0..130).map(|_| site.get(&key, &waiting))).await;
    let refused: Vec<_> = statuses
        .into_iter()
        .filter(|answered| answered.status != StatusCode::OK)
        .collect();
    assert_eq!(refused.len(), 2);
    assert!(refused.into_iter().all(|answered| answered.code() == "too-many"));
    let waiting = format!("?after={}&wait=60", log.next);
    let (log, ()) = tokio::join!(page(&site, &key, &waiting), async { site.stop() });
    assert!(
        log.entries.is_empty() && began.elapsed() < Duration::from_secs(20),
        "who waits keeps nobody from stopping"
    );
}
