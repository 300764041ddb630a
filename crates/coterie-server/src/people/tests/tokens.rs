//! Join tokens.

use coterie_api::v1::{List, Token, TokenMade};
use coterie_control::enrol;
use coterie_model::MemberId;
use coterie_store::TokenUse;
use http::StatusCode;
use serde_json::json;

use super::site::{Site, name};
use crate::clock;

const TOKENS: &str = "/v1/enclaves/shop/tokens";

#[tokio::test]
async fn a_token_is_shown_once_and_revoked() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let body = json!({
        "template": "web", "uses": 3, "ttl_seconds": 600, "ephemeral_seconds": 90, "from": "192.0.2.0/24",
    });
    let answered = site.post(&key, TOKENS, body).await;
    assert_eq!(answered.status, StatusCode::CREATED);
    let made: TokenMade = answered.ok();
    let token = enrol::Token::parse(made.text.expose()).unwrap();
    assert_eq!((made.not_after, &made.servers), (token.not_after.0, &token.servers));
    assert_eq!(made.servers, ["192.0.2.1:4750".parse().unwrap()]);
    let secret = made.text.expose();

    let place = format!("{TOKENS}/{}", made.id);
    let answered = site.get(&key, &place).await;
    assert!(!answered.text.contains(secret));
    let told: Token = answered.ok();
    assert_eq!(
        (told.uses_allowed, told.uses_made, told.ephemeral_seconds),
        (3, 0, Some(90))
    );
    assert_eq!(
        (told.from.as_deref(), told.made_by.as_str()),
        (Some("192.0.2.0/24"), "owner")
    );
    assert_eq!((told.not_after, told.revoked), (told.created + 600, None));

    let mut w = site.server.store.write().await.unwrap();
    let source = "192.0.2.9".parse().unwrap();
    let id = coterie_store::TokenId(token.id);
    let used = w
        .use_token(id, MemberId([5; 16]), &name("web-9"), source, clock::now())
        .await;
    assert!(matches!(used.unwrap(), TokenUse::Used(_)));
    w.commit().await.unwrap();
    let told: Token = site.get(&key, &place).await.ok();
    let used = &told.uses[0];
    assert_eq!(
        (told.uses_made, used.member.clone(), used.source),
        (1, Some(name("web-9")), source)
    );
    let mut w = site.server.store.write().await.unwrap();
    let enclave = site.keeper("acme").await.enclave;
    w.forget_use(enclave, MemberId([5; 16]), clock::now()).await.unwrap();
    w.commit().await.unwrap();
    let told: Token = site.get(&key, &place).await.ok();
    assert_eq!(
        (told.uses_made, told.uses[0].member.clone()),
        (1, None),
        "whom it made is gone"
    );

    assert_eq!(site.delete(&key, &place).await.status, StatusCode::NO_CONTENT);
    let all: List<Token> = site.get(&key, TOKENS).await.ok();
    assert_eq!(all.items.len(), 1);
    assert!(all.items[0].revoked.is_some() && all.items[0].uses.is_empty());
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    for body in [
        json!({ "template": "none", "ttl_seconds": 60 }),
        json!({ "template": "web", "member": "db-1", "ttl_seconds": 60 }),
        json!({ "template": "web", "uses": 0, "ttl_seconds": 60 }),
        json!({ "template": "web", "uses": 2, "member": "web-1", "ttl_seconds": 60 }),
        json!({ "template": "web", "ttl_seconds": 0 }),
        json!({ "template": "web", "ttl_seconds": 60, "from": "192.0.2.1/24" }),
        json!({ "template": "web" }),
        json!({ "template": "web", "ttl_seconds": 60, "for": "192.0.2.0/24" }),
    ] {
        assert_eq!(
            site.post(&key, TOKENS, body.clone()).await.code(),
            "bad-request",
            "{body}"
        );
    }
    let bound = json!({ "template": "web", "member": "web-1", "ttl_seconds": 60 });
    site.post(&key, TOKENS, bound).await.ok::<TokenMade>();
    for id in [
        "0",
        "x",
        "000102030405060708090A0B0C0D0E0F",
        "000102030405060708090a0b0c0d0e0f",
    ] {
        let place = format!("{TOKENS}/{id}");
        assert_eq!(site.get(&key, &place).await.code(), "not-found", "{id}");
        assert_eq!(site.delete(&key, &place).await.code(), "not-found", "{id}");
    }
    assert_eq!(site.get(&key, TOKENS).await.ok::<List<Token>>().items.len(), 1);
}
