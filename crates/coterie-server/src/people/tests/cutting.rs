//! Members: seen, cut off, let in again, ended.

use super::site::NOBODY;
use std::time::Duration;

use coterie_api::v1::{CutOff, EnclaveSummary, Ended, List, Member, MemberState, problem::code};
use http::StatusCode;
use serde_json::json;

use super::site::{FILE, Follower, Site, name, names, request};
use crate::{clock, keeper::Keeper};

const MEMBERS: &str = "/v1/enclaves/shop/members";

async fn post(site: &Site, key: &str, place: &str) -> CutOff {
    site.post(key, &format!("{MEMBERS}/{place}"), json!(null)).await.ok()
}

async fn state(site: &Site, key: &str, member: &str) -> MemberState {
    site.get(key, &format!("{MEMBERS}/{member}")).await.ok::<Member>().state
}

/// Has followers acknowledge whatever changes, until it is dropped.
async fn acknowledge(keeper: &Keeper, followers: &[&Follower]) -> ! {
    loop {
        let revision = keeper.look(|state| state.revision).await.unwrap();
        for follower in followers {
            keeper.presence.acknowledge((&follower.name, NOBODY), revision);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_member_is_seen_as_it_is() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let keeper = site.keeper("acme").await;
    let expected: Member = site.get(&key, &format!("{MEMBERS}/web-1")).await.ok();
    assert_eq!(
        (expected.state, expected.serial, expected.member_id),
        (MemberState::Expected, 0, None)
    );
    assert_eq!((expected.template, expected.communities), (name("web"), names("web")));
    let enrolled = site.enrol(&key, "web-1").await;
    assert_eq!((enrolled.state, enrolled.serial), (MemberState::Enrolled, 1));
    assert_eq!(enrolled.fingerprint.unwrap().len(), 39);
    assert!(enrolled.not_after.unwrap() > clock::now().0 && enrolled.last_seen.is_none());

    let follower = Follower::enter(&keeper, "web-1");
    keeper.presence.acknowledge((&follower.name, NOBODY), 5);
    keeper.presence.note_version((&follower.name, NOBODY), "9.9".to_owned());
    let connected: Member = site.get(&key, &format!("{MEMBERS}/web-1")).await.ok();
    assert_eq!(
        (connected.state, connected.acknowledged_revision),
        (MemberState::Connected, Some(5))
    );
    assert_eq!(connected.version.as_deref(), Some("9.9"));
    assert!(connected.connected_since.unwrap().abs_diff(clock::now().0) < 60 && connected.last_seen.is_some());
    let stream = keeper.presence.connected(&follower.name).unwrap().stream;
    keeper.presence.leave(&follower.name, stream);
    let left: Member = site.get(&key, &format!("{MEMBERS}/web-1")).await.ok();
    assert_eq!((left.state, left.connected_since), (MemberState::Enrolled, None));
    assert!(left.last_seen.unwrap().abs_diff(clock::now().0) < 60);

    let all: List<Member> = site.get(&key, MEMBERS).await.ok();
    assert_eq!(
        all.items.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
        ["db-1", "web-1"]
    );
    assert_eq!(all.items[1], left);
    assert_eq!(site.get(&key, &format!("{MEMBERS}/none")).await.code(), code::NOT_FOUND);
}

#[tokio::test]
async fn isolate_and_release_say_whom_the_news_has_reached() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let keeper = site.keeper("acme").await;
    site.enrol(&key, "web-1").await;
    site.enrol(&key, "db-1").await;
    let (web, db) = (Follower::enter(&keeper, "web-1"), Follower::enter(&keeper, "db-1"));
    // Whom it concerns is not waited for.
    let heard = [&db];
    let cut = tokio::select! {
        never = acknowledge(&keeper, &heard) => never,
        cut = post(&site, &key, "web-1/isolate") => cut,
    };
    assert!(cut.changed && cut.member == web.name && cut.communities_rolled.is_empty());
    assert_eq!((cut.connected, cut.acknowledged), (1, 1));
    assert!(cut.milliseconds < 5_000, "{cut:?}");
    assert_eq!(state(&site, &key, "web-1").await, MemberState::Isolated);
    let listed = keeper.look(|state| {
        state
            .enclave
            .revocations()
            .map(|list| (list.revision, list.entries.len()))
    });
    assert_eq!(listed.await.unwrap(), Some((cut.revision, 1)));

    let again = post(&site, &key, "web-1/isolate").await;
    assert!(!again.changed && again.revision == cut.revision);
    // The one that is connected says nothing: waiting ends.
    let released = post(&site, &key, "web-1/release").await;
    assert!(released.changed && released.revision > cut.revision);
    assert_eq!((released.connected, released.acknowledged), (1, 0));
    assert!((5_000..15_000).contains(&released.milliseconds), "{released:?}");
    assert_eq!(state(&site, &key, "web-1").await, MemberState::Connected);
    let again = tokio::select! {
        never = acknowledge(&keeper, &heard) => never,
        again = post(&site, &key, "web-1/release") => again,
    };
    assert!(!again.changed);
    let at_once = post(&site, &key, "web-1/isolate?wait_ms=0").await;
    assert!(at_once.changed && (at_once.connected, at_once.acknowledged) == (1, 0) && at_once.milliseconds < 1_000);
    let place = format!("{MEMBERS}/web-1/release?wait=0");
    assert_eq!(site.post(&key, &place, json!(null)).await.code(), code::BAD_REQUEST);
}

#[tokio::test]
async fn a_revoked_member_is_out_and_what_it_held_gets_new_keys() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let place = format!("{MEMBERS}/db-1/revoke");
    assert_eq!(
        site.post(&key, &place, json!(null)).await.code(),
        code::CONFLICT,
        "nobody enrolled as it"
    );
    assert_eq!(
        site.post(&key, &format!("{MEMBERS}/none/revoke"), json!(null))
            .await
            .code(),
        code::NOT_FOUND
    );
    let machine = request("db-1");
    let bundle = format!("{MEMBERS}/db-1/bundle");
    assert_eq!(
        site.call(&key, "POST", &bundle, machine.clone()).await.status,
        StatusCode::OK
    );
    let cut = post(&site, &key, "db-1/revoke").await;
    assert!(cut.changed && cut.connected == 0);
    assert_eq!(cut.communities_rolled, names("db web"));
    assert_eq!(state(&site, &key, "db-1").await, MemberState::Expected);
    let again = site.call(&key, "POST", &bundle, machine).await;
    assert_eq!(again.code(), code::CONFLICT, "its keys are refused");
    assert_eq!(
        site.call(&key, "POST", &bundle, request("db-1")).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_bundle_is_made_for_the_member_of_the_path_alone() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    for (member, body, code) in [
        ("web-1", request("db-1"), code::BAD_REQUEST),
        ("web-1", "nonsense".to_owned(), code::BAD_REQUEST),
        ("none", request("none"), code::NOT_FOUND),
    ] {
        let answered = site
            .call(&key, "POST", &format!("{MEMBERS}/{member}/bundle"), body)
            .await;
        assert_eq!(answered.code(), code, "{member}");
    }
    assert_eq!(state(&site, &key, "web-1").await, MemberState::Expected);
}

#[tokio::test]
async fn members_end_one_by_one_and_by_the_thousand() {
    let site = Site::new().await;
    let key = site.tenant("acme").await;
    let members: Vec<String> = (0..1_100).map(|n| format!("m-{n:04}")).collect();
    let tables = members
        .iter()
        .map(|member| format!("[member.{member}]\ntemplate = \"web\"\n"));
    let file = format!(
        "{}{}",
        FILE.replace("10.77.0.0/24", "10.64.0.0/16"),
        tables.collect::<String>()
    );
    site.call(&key, "PUT", "/v1/enclaves/shop", file).await;
    site.enrol(&key, "web-1").await;
    let one: Ended = site.delete(&key, &format!("{MEMBERS}/web-1")).await.ok();
    assert_eq!((one.ended, one.not_enrolled), (names("web-1"), Vec::new()));
    let one: Ended = site.delete(&key, &format!("{MEMBERS}/web-1")).await.ok();
    assert_eq!((one.ended, one.not_enrolled), (Vec::new(), names("web-1")));
    assert_eq!(
        site.delete(&key, &format!("{MEMBERS}/none")).await.code(),
        code::NOT_FOUND
    );

    for member in &members[..600] {
        let answered = site
            .call(&key, "POST", &format!("{MEMBERS}/{member}/bundle"), request(member))
            .await;
        assert_eq!(answered.status, StatusCode::OK, "{answered:?}");
    }
    let mut names = members.clone();
    names.extend(["none".to_owned(), "m-0000".to_owned()]);
    let ended: Ended = site
        .post(&key, &format!("{MEMBERS}/end"), json!({ "names": names }))
        .await
        .ok();
    assert_eq!((ended.ended.len(), ended.not_enrolled.len()), (600, 501));
    assert!(ended.ended.is_sorted() && ended.not_enrolled.is_sorted());
    let summary: EnclaveSummary = site.get(&key, "/v1/enclaves/shop").await.ok();
    assert_eq!(summary.enrolled, 0);
}
