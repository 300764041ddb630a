//! What members that follow are told.

use std::time::{Duration, Instant};

use coterie_api::v1;
use coterie_control::{bundle::Request, follow::Message};
use http::{HeaderMap, Method};

use crate::site::{FILE, Machine, Person, Site, json, name, named};

async fn enrolled(owner: &Person, template: &str, named: &str) -> Machine {
    let token = owner.token(template, 1).await;
    let mut machine = Machine::new(named, &token);
    machine.enrol(&token).await.expect("it is let in");
    machine
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_of_those_they_share_with_and_of_nobody_else() {
    let site = Site::start();
    let owner = site.shop().await;
    let (web, db) = (
        enrolled(&owner, "web", "web-1").await,
        enrolled(&owner, "db", "db-1").await,
    );
    let (mut web_told, mut db_told) = (web.follow(0).await.unwrap(), db.follow(0).await.unwrap());
    let (everything, _) = web_told.until_mark().await;
    assert_eq!(named(&everything), ["web-1"].map(str::to_owned).into());
    assert_eq!(named(&db_told.until_mark().await.0), ["db-1"].map(str::to_owned).into());

    let app = enrolled(&owner, "app", "app-1").await;
    for told in [&mut web_told, &mut db_told] {
        let came = told
            .until(5, |m| named(std::slice::from_ref(m)).contains("app-1").then_some(()))
            .await;
        assert_eq!(came, ());
    }
    let mut app_told = app.follow(0).await.unwrap();
    let (everything, _) = app_told.until_mark().await;
    assert_eq!(named(&everything), ["app-1", "db-1", "web-1"].map(str::to_owned).into());

    // A view has what its community may know of a member, and nothing of its others.
    let communities = everything.iter().filter_map(|m| match m {
        Message::View(piece) => Some(piece.entries.iter().map(|e| e.communities.len()).max()?),
        _ => None,
    });
    assert_eq!(communities.max(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_is_told_what_changed_since() {
    let mut site = Site::start();
    let owner = site.shop().await;
    let web = enrolled(&owner, "web", "web-1").await;
    let mut told = web.follow(0).await.unwrap();
    let (_, mark) = told.until_mark().await;
    drop(told);
    let _other = enrolled(&owner, "web", "web-2").await;
    let mut told = web.follow(mark).await.unwrap();
    let (news, later) = told.until_mark().await;
    assert_eq!(
        named(&news),
        ["web-2"].map(str::to_owned).into(),
        "a difference, not everything"
    );
    assert!(later > mark);

    drop(told);
    site.kill();
    site.up();
    let mut told = web.follow(later).await.unwrap();
    let (news, same) = told.until_mark().await;
    assert!(
        named(&news).is_empty() && same == later,
        "the server's death changed nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_told_to_everybody_and_let_in_nowhere() {
    let site = Site::start();
    let owner = site.shop().await;
    let mut web = enrolled(&owner, "web", "web-1").await;
    let other = enrolled(&owner, "web", "web-2").await;
    let mut told = web.follow(0).await.unwrap();
    let (_, mark) = told.until_mark().await;
    told.ack(mark).await;
    let key = *other.keys.static_key().public();

    let asked = Instant::now();
    let cut = tokio::spawn(async move {
        let cut: v1::CutOff = owner.post("/v1/enclaves/shop/members/web-2/revoke", &()).await.unwrap();
        (cut, owner)
    });
    let refused = told
        .until(5, |m| match m {
            Message::Revocations(list) => Some(list.claimed().entries.iter().any(|e| e.static_key == key)),
            _ => None,
        })
        .await;
    assert!(
        refused && asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    let (_, mark) = told.until_mark().await;
    told.ack(mark).await;
    let (cut, owner) = cut.await.unwrap();
    assert_eq!((cut.connected, cut.acknowledged), (1, 1));

    assert!(
        other.follow(0).await.is_err(),
        "its certificate is good for nothing more"
    );
    web.renew().await.unwrap();
    assert!(
        web.opened.as_ref().unwrap().keys.iter().any(|key| key.epoch == 2),
        "a key that it never had"
    );
    assert!(
        owner
            .members()
            .await
            .iter()
            .all(|member| member.name.as_str() != "web-2"),
        "the name is free"
    );
    let _again = enrolled(&owner, "web", "web-2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_isolated_hears_of_it_and_comes_back_when_released() {
    let site = Site::start();
    let owner = site.shop().await;
    let mut web = enrolled(&owner, "web", "web-1").await;
    let mut told = web.follow(0).await.unwrap();
    let _everything = told.until_mark().await;
    let key = *web.keys.static_key().public();
    let has_key = move |m: &Message| match m {
        Message::Revocations(list) => Some(list.claimed().entries.iter().any(|e| e.static_key == key)),
        _ => None,
    };
    let _cut: v1::CutOff = owner
        .post("/v1/enclaves/shop/members/web-1/isolate", &())
        .await
        .unwrap();
    assert!(told.until(5, has_key).await);
    let refused = web.renew().await.unwrap_err();
    assert_eq!(refused.code(), Some("isolated"));
    let _cut: v1::CutOff = owner
        .post("/v1/enclaves/shop/members/web-1/release", &())
        .await
        .unwrap();
    assert!(!told.until(5, has_key).await);
    web.renew().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_come_each_with_a_sealing_key_for_once_and_without_views() {
    let site = Site::start();
    let owner = site.shop().await;
    let mut web = enrolled(&owner, "web", "web-1").await;
    assert!(web.opened.as_ref().unwrap().has_views);
    let first = web.opened.as_ref().unwrap().bundle_certificate.clone();
    web.renew().await.unwrap();
    let opened = web.opened.as_ref().unwrap();
    assert!(!opened.has_views && opened.bundle_certificate != first);
    assert_eq!(opened.servers, [site.address]);

    // To a sealing key that had its bundle no other one is sealed, be it that of a renewal or of the application.
    let other = enrolled(&owner, "web", "web-2").await;
    for (machine, serial) in [(&web, 2), (&other, 1)] {
        let request = Request::new(&machine.keys).unwrap().to_text();
        let connection = machine.member().await.unwrap();
        let asked = connection.request(
            Method::POST,
            "/v1/node/bundle",
            HeaderMap::new(),
            request.into(),
            1 << 20,
        );
        let refused = asked.await.unwrap().accepted().unwrap_err();
        assert_eq!(refused.code(), Some("conflict"));
        let members = owner.members().await;
        let member = members.iter().find(|member| member.name == *machine.keys.name());
        assert_eq!(member.unwrap().serial, serial);
    }
    web.renew().await.expect("to a fresh one it is");
}

/// A door is told what visitors may knock with, and its word on where they are counts; that of others does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_door_is_told_of_tokens_and_nobody_else_is() {
    let site = Site::start();
    let owner = site.shop().await;
    let (gate, web) = (
        enrolled(&owner, "gate", "gate-1").await,
        enrolled(&owner, "web", "web-1").await,
    );
    let (mut gate_told, mut web_told) = (gate.follow(0).await.unwrap(), web.follow(0).await.unwrap());
    let _everything = gate_told.until_mark().await;
    let token = owner.token("web", 1).await;
    assert_eq!(token.doors.len(), 1, "the gate stands at the door now");
    let own = *gate.keys.static_key().public();
    let knocks = gate_told
        .until(5, |m| match m {
            Message::Knocks(knocks) => Some(
                knocks
                    .iter()
                    .map(|k| (k.key.tag.0, *k.key.key.expose()))
                    .collect::<Vec<_>>(),
            ),
            _ => None,
        })
        .await;
    assert!(knocks.contains(&(token.id, *token.knock_key(&own).key.expose())));
    let (everything, _) = web_told.until_mark().await;
    assert!(!everything.iter().any(|m| matches!(m, Message::Knocks(_))));

    // Its secret is not what a door is told: who has only that cannot apply.
    for (machine, believed) in [(&gate, true), (&web, false)] {
        let mut headers = HeaderMap::new();
        headers.insert(v1::SOURCE_HEADER, "203.0.113.7:4747".parse().unwrap());
        let connection = machine.member().await.unwrap();
        let mut bytes = vec![1];
        bytes.extend_from_slice(&token.id);
        bytes.extend_from_slice(&[0; 100]);
        let answer = connection
            .request(Method::POST, "/v1/enrol", headers, bytes.into(), 1 << 16)
            .await;
        answer.unwrap().accepted().unwrap();
        let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
        let last = page
            .entries
            .iter()
            .rfind(|entry| entry.action == "member.refuse")
            .unwrap();
        assert_eq!(last.detail.to_string().contains("203.0.113.7"), believed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_resolved_on_demand_by_those_who_share_with_them() {
    let site = Site::start();
    let owner = site.shop().await;
    let (web, db) = (
        enrolled(&owner, "web", "web-1").await,
        enrolled(&owner, "db", "db-1").await,
    );
    let _app = enrolled(&owner, "app", "app-1").await;
    for (machine, wanted, found) in [
        (&web, "app-1", true),
        (&db, "app-1", true),
        (&web, "db-1", false),
        (&db, "none", false),
    ] {
        let body = serde_json::to_vec(&v1::Resolve::Name(name(wanted))).unwrap();
        let connection = machine.member().await.unwrap();
        let answer = connection
            .request(Method::POST, "/v1/node/resolve", json(), body.into(), 1 << 20)
            .await
            .unwrap();
        assert_eq!(answer.accepted().is_ok(), found, "{wanted}");
    }
}

/// Ephemeral members go when they were not seen for so long, and their names are free.
#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_members_go_when_they_are_not_seen() {
    let mut site = Site::start();
    let owner = site.shop().await;
    let new = v1::NewToken {
        template: name("web"),
        member: None,
        uses: 2,
        ttl_seconds: 600,
        ephemeral_seconds: Some(3),
        from: None,
    };
    let token = owner.token_of("shop", &new).await;
    let (mut here, mut gone) = (Machine::new("web-1", &token), Machine::new("web-2", &token));
    here.enrol(&token).await.unwrap();
    gone.enrol(&token).await.unwrap();
    // What is to be done survives the server.
    site.kill();
    site.up();
    let owner = site.person(&owner.key()).await;
    let mut told = here.follow(0).await.unwrap();
    told.until(15, |m| match m {
        Message::View(piece) => piece.gone.contains(&name("web-2")).then_some(()),
        _ => None,
    })
    .await;
    let members = owner.members().await;
    let is_member = |wanted: &str| members.iter().any(|member| member.name.as_str() == wanted);
    assert!(is_member("web-1") && !is_member("web-2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_moves_members_and_tells_them() {
    let site = Site::start();
    let owner = site.shop().await;
    let mut web = enrolled(&owner, "web", "web-1").await;
    let db = enrolled(&owner, "db", "db-1").await;
    let mut told = web.follow(0).await.unwrap();
    let _everything = told.until_mark().await;
    let file = FILE.replace(
        "[template.web]\ncommunities = [\"web\"]",
        "[template.web]\ncommunities = [\"web\", \"db\"]",
    );
    let applied = owner.apply("shop", &file).await.unwrap();
    assert!(applied.changed && applied.reach_total > 0);
    told.until(5, |m| named(std::slice::from_ref(m)).contains("db-1").then_some(()))
        .await;
    told.until(5, |m| matches!(m, Message::Renew).then_some(())).await;
    web.renew().await.unwrap();
    assert_eq!(web.opened.as_ref().unwrap().statements.len(), 2);
    let again = owner.apply("shop", &file).await.unwrap();
    assert!(!again.changed, "the same file again changes nothing");
    drop(db);
}

/// A member that lost the bundle which it was given last is told to ask again.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_was_lost_is_made_up_for() {
    let site = Site::start();
    let owner = site.shop().await;
    let mut web = enrolled(&owner, "web", "web-1").await;
    let is_told = async |web: &Machine| {
        let (words, _) = web.follow(0).await.unwrap().until_mark().await;
        words.iter().any(|word| matches!(word, Message::Renew))
    };
    let kept = web.opened.as_ref().unwrap().serial;
    web.renew().await.unwrap();
    assert!(!is_told(&web).await, "it has the newest");
    web.opened.as_mut().unwrap().serial = kept;
    assert!(is_told(&web).await);
}
