//! Enclaves, their files, communities, and why one member reaches another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coterie_api::{
    node::{Explanation, Failure},
    v1::{
        Applied, Community, EnclaveSummary, Explained, Installed, List, MAX_FILE, MAX_REACH_ROWS, Member, ReachChange,
        RolledKey, RootRotated, Verdict, problem::code,
    },
};
use coterie_control::follow::Message;
use http::StatusCode;
use serde_json::json;

use super::site::{Answered, FILE, Follower, Site, name, names};

const SHOP: &str = "/v1/enclaves/shop";

async fn put(site: &Site, key: &str, text: &str, conditions: &[(&str, &str)]) -> Answered {
    let mut request = http::Request::put(SHOP).header("authorization", format!("Bearer {key}"));
    for (header, value) in conditions {
        request = request.header(*header, *value);
    }
    site.send(request.body(text.to_owned().into()).unwrap()).await
}

#[tokio::test]
async fn a_file_makes_an_enclave_and_changes_it() {
    let site = Site::new().await;
    let key = site.tenant("acme").await;
    let dry: Applied = site.call(&key, "PUT", &format!("{SHOP}?dry_run=true"), FILE).await.ok();
    assert!(dry.dry_run && dry.created && dry.changed && dry.version == 0);
    assert_eq!(site.get(&key, SHOP).await.code(), code::NOT_FOUND);

    let answered = put(&site, &key, FILE, &[("if-none-match", "*")]).await;
    assert_eq!(
        (answered.status, &answered.headers["etag"]),
        (StatusCode::CREATED, &"\"1\"".parse().unwrap())
    );
    let made: Applied = answered.ok();
    assert_eq!(
        made,
        Applied {
            version: 1,
            dry_run: false,
            ..dry
        }
    );
    assert_eq!(
        (&made.communities_added, &made.members_added),
        (&names("db web"), &names("db-1 web-1"))
    );
    assert_eq!((made.reach_total, made.tests_passed), (2, 1));
    let first = ReachChange {
        from: name("db-1"),
        to: name("web-1"),
        before: None,
        after: Some(name("web")),
    };
    assert_eq!(made.reach[0], first);

    let same: Applied = put(&site, &key, FILE, &[]).await.ok();
    assert!(
        !same.changed && !same.created && same.version == 1 && same.reach.is_empty(),
        "{same:?}"
    );

    let later = format!("{FILE}[member.web-2]\ntemplate = \"web\"\n");
    let dry: Applied = site
        .call(&key, "PUT", &format!("{SHOP}?dry_run=true"), later.clone())
        .await
        .ok();
    assert!(dry.changed && dry.dry_run && dry.version == 1);
    assert_eq!((&dry.members_added, dry.reach_total), (&names("web-2"), 4));
    assert_eq!(
        site.get(&key, &format!("{SHOP}/file")).await.text,
        FILE,
        "a dry run changes nothing"
    );
    let applied: Applied = put(&site, &key, &later, &[("if-match", "\"1\"")]).await.ok();
    assert_eq!(
        applied,
        Applied {
            version: 2,
            dry_run: false,
            ..dry
        }
    );

    let file = site.get(&key, &format!("{SHOP}/file")).await;
    assert_eq!(
        (file.text.as_str(), &file.headers["etag"]),
        (later.as_str(), &"\"2\"".parse().unwrap())
    );
    assert_eq!(file.headers["content-type"], "application/toml");
    let answered = site.get(&key, SHOP).await;
    assert_eq!(answered.headers["etag"], "\"2\"");
    let summary: EnclaveSummary = answered.ok();
    assert_eq!(
        (summary.version, summary.members, summary.enrolled, summary.communities),
        (2, 3, 0, 2)
    );
    assert_eq!((summary.root_hash.len(), summary.id.len()), (64, 32));
    assert_eq!(
        site.get(&key, "/v1/enclaves").await.ok::<List<EnclaveSummary>>().items,
        [summary]
    );

    assert_eq!(site.delete(&key, SHOP).await.status, StatusCode::NO_CONTENT);
    assert_eq!(site.get(&key, SHOP).await.code(), code::NOT_FOUND);
    assert_eq!(
        put(&site, &key, FILE, &[]).await.status,
        StatusCode::CREATED,
        "the name is free again"
    );
}

#[tokio::test]
async fn somebody_who_applied_in_between_is_noticed() {
    let site = Site::new().await;
    let key = site.tenant("acme").await;
    assert_eq!(
        put(&site, &key, FILE, &[("if-match", "\"1\"")]).await.code(),
        code::CHANGED
    );
    assert_eq!(put(&site, &key, FILE, &[("if-match", "*")]).await.code(), code::CHANGED);
    put(&site, &key, FILE, &[]).await.ok::<Applied>();
    let later = format!("{FILE}[community.log]\n");
    for (header, value) in [("if-none-match", "*"), ("if-match", "\"2\""), ("if-match", "W/\"1\"")] {
        let answered = put(&site, &key, &later, &[(header, value)]).await;
        assert_eq!(answered.status, StatusCode::PRECONDITION_FAILED, "{header}");
        assert_eq!(answered.code(), code::CHANGED, "{header}");
    }
    assert_eq!(
        put(&site, &key, &later, &[("if-match", "1")]).await.code(),
        code::BAD_REQUEST
    );
    // Of many who saw the same version one is taken; of many who do not mind each is.
    let texts: Vec<String> = (0..8).map(|n| format!("{FILE}[community.c{n}]\n")).collect();
    let insisting = texts
        .iter()
        .map(|text| put(&site, &key, text, &[("if-match", "\"1\"")]));
    let insisting = together(insisting).await;
    assert_eq!(
        insisting
            .iter()
            .filter(|answered| answered.status == StatusCode::OK)
            .count(),
        1
    );
    let before = site.get(&key, SHOP).await.ok::<EnclaveSummary>().version;
    let easy = together(texts.iter().map(|text| put(&site, &key, text, &[]))).await;
    let applied: Vec<Applied> = easy.into_iter().map(Answered::ok).collect();
    let changed = applied.iter().filter(|applied| applied.changed).count();
    let after = site.get(&key, SHOP).await.ok::<EnclaveSummary>().version;
    assert_eq!(after - before, u64::try_from(changed).unwrap());
    assert!(changed >= 7, "{changed}");
    // Two who make it at once: one makes it, the other applies to what is there.
    site.delete(&key, SHOP).await;
    let both = together(texts[..2].iter().map(|text| put(&site, &key, text, &[]))).await;
    let mut statuses: Vec<u16> = both.iter().map(|answered| answered.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
}

/// Who is told that there is such an enclave already finds it there; who hangs up has made it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_enclave_is_in_the_store_and_at_work_or_neither() {
    let site = Site::new().await;
    site.shop("acme").await;
    let tenant = site.keeper("acme").await.tenant;
    for round in 0..20 {
        let shop = name(&format!("shop-{round}"));
        let text = FILE.replace("\"shop\"", &format!("\"{shop}\""));
        let makers: Vec<_> = (0..4)
            .map(|_| {
                let (server, shop, text) = (Arc::clone(&site.server), shop.clone(), text.clone());
                tokio::spawn(async move {
                    let made = server.create(tenant, &text, "somebody").await;
                    (made.is_ok(), server.keeper(tenant, &shop).await.is_some())
                })
            })
            .collect();
        let mut made = 0;
        for maker in makers {
            let (is_made, is_there) = maker.await.unwrap();
            made += usize::from(is_made);
            assert!(is_there, "round {round}");
        }
        assert_eq!(made, 1, "round {round}");
    }
    let text = FILE.replace("\"shop\"", "\"hasty\"");
    let mut hasty = Box::pin(site.server.create(tenant, &text, "somebody"));
    // It is asked for, and nobody waits for it.
    core::future::poll_fn(|context| {
        let _begun = hasty.as_mut().poll(context);
        core::task::Poll::Ready(())
    })
    .await;
    drop(hasty);
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.server.keeper(tenant, &name("hasty")).await.is_none() {
        assert!(Instant::now() < deadline, "it is not there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes calls at once.
pub(super) async fn together(calls: impl Iterator<Item = impl Future<Output = Answered>>) -> Vec<Answered> {
    let mut calls: Vec<_> = calls.map(Box::pin).collect();
    let mut done: Vec<Option<Answered>> = calls.iter().map(|_| None).collect();
    core::future::poll_fn(|context| {
        for (call, done) in calls.iter_mut().zip(&mut done) {
            if done.is_none()
                && let core::task::Poll::Ready(answered) = call.as_mut().poll(context)
            {
                *done = Some(answered);
            }
        }
        match done.iter().all(Option::is_some) {
            true => core::task::Poll::Ready(()),
            false => core::task::Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_file_that_is_not_accepted_says_where() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    for place in [SHOP, "/v1/enclaves/new"] {
        let answered = site.call(&key, "PUT", place, FILE.replace("\"db\"]", "\"dp\"]")).await;
        assert_eq!(answered.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem = answered.problem();
        assert_eq!(problem.code, code::BAD_FILE);
        let fault = problem
            .faults
            .iter()
            .find(|fault| fault.path.contains("template.db"))
            .unwrap();
        assert_eq!((fault.severity.as_str(), fault.line), ("error", 11));
        assert!(
            fault.column > 1 && !fault.message.is_empty() && !fault.remedy.is_empty(),
            "{fault:?}"
        );
    }
    let failing = FILE.replace("communities = [\"web\", \"db\"]", "communities = [\"db\"]");
    let problem = site.call(&key, "PUT", SHOP, failing).await.problem();
    assert_eq!(problem.code, code::BAD_FILE, "the file's own test");
    assert_eq!(
        site.call(&key, "PUT", SHOP, &b"\xff\xfe"[..]).await.code(),
        code::BAD_FILE
    );
    assert_eq!(
        site.call(&key, "PUT", "/v1/enclaves/mill", FILE).await.code(),
        code::OTHER_ENCLAVE
    );
    let long = format!("{FILE}#{}", "x".repeat(MAX_FILE));
    assert_eq!(site.call(&key, "PUT", SHOP, long).await.code(), code::TOO_LARGE);
    assert_eq!(site.get(&key, SHOP).await.ok::<EnclaveSummary>().version, 1);
}

#[tokio::test]
async fn a_thousand_members_are_compared_at_once() {
    let site = Site::new().await;
    let key = site.tenant("acme").await;
    let large = |extra: &str| {
        let members = (0..1_000).map(|n| format!("[member.m-{n:04}]\ntemplate = \"t{}\"\n", n % 10));
        let templates =
            (0..10).map(|n| format!("[community.c{n}]\n[template.t{n}]\ncommunities = [\"c{n}\", \"all\"]\n"));
        format!(
            "version = 1\n[enclave]\nname = \"shop\"\npools = [\"10.64.0.0/16\"]\n[community.all]\npriority = 9\n{}{}{extra}",
            templates.collect::<String>(),
            members.collect::<String>()
        )
    };
    let made: Applied = put(&site, &key, &large(""), &[]).await.ok();
    assert_eq!((made.reach_total, made.reach.len()), (999_000, MAX_REACH_ROWS));
    let began = Instant::now();
    let more: Applied = put(&site, &key, &large("[member.n-1]\ntemplate = \"t1\"\n"), &[])
        .await
        .ok();
    assert_eq!((more.reach_total, more.reach.len()), (2_000, MAX_REACH_ROWS));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(more.reach[0].to, name("n-1"));
    let members: List<Member> = site.get(&key, &format!("{SHOP}/members")).await.ok();
    assert_eq!(members.items.len(), 1_001);
}

#[tokio::test]
async fn a_communitys_key_is_rotated() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let web = || async {
        let all: List<Community> = site.get(&key, &format!("{SHOP}/communities")).await.ok();
        all.items.into_iter().find(|c| c.name == name("web")).unwrap()
    };
    let before = web().await;
    assert_eq!((before.epoch, before.members, before.next), (1, 2, None));
    assert_eq!((before.tag.len(), before.priority), (32, 100));
    let place = format!("{SHOP}/communities/web/rotate-key");
    let removal: RolledKey = site.post(&key, &place, json!({ "kind": "removal" })).await.ok();
    assert!(!removal.changed && removal.epoch == 1, "nobody was given it");
    let scheduled: RolledKey = site.post(&key, &place, json!({ "kind": "scheduled" })).await.ok();
    assert!(scheduled.changed && scheduled.epoch == 2);
    let after = web().await;
    let next = after.next.unwrap();
    assert_eq!((after.epoch, next.epoch, next.activates), (1, 2, scheduled.activates));
    assert_eq!(
        site.post(&key, &place, json!({ "kind": "scheduled" })).await.code(),
        code::CONFLICT
    );
    let none = format!("{SHOP}/communities/none/rotate-key");
    assert_eq!(
        site.post(&key, &none, json!({ "kind": "removal" })).await.code(),
        code::NOT_FOUND
    );
    site.enrol(&key, "web-1").await;
    let removal: RolledKey = site.post(&key, &place, json!({ "kind": "removal" })).await.ok();
    assert!(removal.changed && removal.epoch == 3);
    assert_eq!((web().await.epoch, web().await.next), (3, None));
}

#[tokio::test]
async fn the_root_is_replaced() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    site.enrol(&key, "web-1").await;
    let before: EnclaveSummary = site.get(&key, SHOP).await.ok();
    let rotated: RootRotated = site.post(&key, &format!("{SHOP}/root/rotate"), json!(null)).await.ok();
    assert_eq!(
        (&rotated.previous_root_hash, rotated.era, rotated.members),
        (&before.root_hash, 1, 1)
    );
    let after: EnclaveSummary = site.get(&key, SHOP).await.ok();
    assert_ne!(after.root_hash, before.root_hash);
    assert_eq!((after.root_hash, after.version), (rotated.root_hash, before.version));
}

#[tokio::test]
async fn why_is_told_by_policy_and_by_both_ends() {
    let site = Site::new().await;
    let key = site.shop("acme").await;
    let keeper = site.keeper("acme").await;
    let place = format!("{SHOP}/explain?from=web-1&to=db-1");
    let told: Explained = site.get(&key, &place).await.ok();
    assert_eq!(told.policy.chosen, Some(name("web")));
    assert_eq!(
        (&told.policy.from_communities, &told.policy.to_communities),
        (&names("web"), &names("db web"))
    );
    assert_eq!(
        (told.policy.shared.len(), &told.policy.shared[0].verdict),
        (1, &Verdict::Chosen)
    );
    for end in [&told.from, &told.to] {
        assert!(
            matches!(end, Installed::Untold(Failure { message, .. }) if message.contains("not connected")),
            "{end:?}"
        );
    }
    // Both ends follow: each is asked about the other, and one knows.
    let mut ends = [Follower::enter(&keeper, "web-1"), Follower::enter(&keeper, "db-1")];
    let has = Explanation {
        destination: "10.77.0.1".parse().unwrap(),
        member: Some(name("db-1")),
        candidates: Vec::new(),
        chosen: Some(name("web")),
        installed: None,
        refused: None,
    };
    let failure = Failure {
        code: "unknown-member".to_owned(),
        message: "it is dark".to_owned(),
        remedy: "light it".to_owned(),
    };
    // What one says who was asked something else counts for nothing.
    let answering = async {
        let [web, db] = &mut ends;
        let Message::Explain { id, destination } = web.next().await else {
            panic!("web-1 is asked something else");
        };
        assert_eq!(destination, "db-1");
        keeper.presence.answer(&name("db-1"), id, Err(failure.clone()));
        keeper.presence.answer(&name("web-1"), id, Ok(has.clone()));
        let Message::Explain { id, destination } = db.next().await else {
            panic!("db-1 is asked something else");
        };
        assert_eq!(destination, "web-1");
        keeper.presence.answer(&name("web-1"), id, Ok(has.clone()));
        keeper.presence.answer(&name("db-1"), id, Err(failure.clone()));
    };
    let (answered, ()) = tokio::join!(site.get(&key, &place), answering);
    let told: Explained = answered.ok();
    assert_eq!(told.from, Installed::Told(has.clone()));
    assert_eq!(told.to, Installed::Untold(failure));
    for (query, code) in [
        ("from=web-1&to=none", code::NOT_FOUND),
        ("from=web-1&to=web-1", code::BAD_REQUEST),
        ("from=web-1", code::BAD_REQUEST),
        ("from=web-1&to=db-1&via=web", code::BAD_REQUEST),
    ] {
        assert_eq!(
            site.get(&key, &format!("{SHOP}/explain?{query}")).await.code(),
            code,
            "{query}"
        );
    }
}
