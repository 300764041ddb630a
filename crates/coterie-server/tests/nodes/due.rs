//! What a server does by itself when it is due: keys are replaced, and what nobody needs is forgotten.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use coterie_api::v1;
use coterie_control::follow::Message;
use coterie_model::{EnclaveId, UnixTime};
use coterie_store::{Feed, NewChange, NewToken, Task};

use crate::site::{FILE, Kernel, Machine, Person, Site, name, named, now};
use crate::story::{enclave_of, open};

/// Changes that are told one by one, at most.
const MOST: u64 = 2_000;

/// What the server is to do, by a look into its database while it is down.
async fn tasks(site: &Site, kind: &str) -> Vec<Task> {
    let store = open(site).await;
    let all = store.read().await.unwrap().tasks().await.unwrap();
    store.close().await.unwrap();
    all.into_iter().filter(|task| task.kind == kind).collect()
}

/// Has the server do something as soon as it is started.
async fn have_done(site: &Site, kind: &str, subject: &str) {
    let store = open(site).await;
    let mut w = store.write().await.unwrap();
    w.ask_task(kind, subject, now()).await.unwrap();
    w.commit().await.unwrap();
    store.close().await.unwrap();
}

async fn enrolled(owner: &Person, named: &str) -> Machine {
    let token = owner.token("web", 1).await;
    let mut machine = Machine::new(named, &token);
    machine.enrol(&token).await.expect("it is let in");
    machine
}

/// The shortest period there is, a minute, after which nobody asks for a new key: members have it ahead of its time, once, and the
/// next one is due a period later.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_when_their_time_has_come_and_not_again_before() {
    let mut site = Site::start();
    let owner = site.tenant("acme").await;
    let file = FILE
        .replace("lease = \"10m\"", "lease = \"1m\"")
        .replace("[community.web]", "[community.web]\nepoch = \"1m\"");
    let began = now();
    owner.apply("shop", &file).await.unwrap();
    let mut web = enrolled(&owner, "web-1").await;
    let minute = Duration::from_secs(60);
    site.kill();
    let due: Vec<UnixTime> = tasks(&site, "roll").await.iter().map(|task| task.due).collect();
    assert_eq!(due.len(), 2, "one for each community");
    assert!((began.plus(minute)..=now().plus(minute)).contains(&due[0]), "{due:?}");

    // The minute is over.
    let subject = tasks(&site, "roll").await[0].subject.clone();
    have_done(&site, "roll", &subject).await;
    site.up();
    let rolled_after = now();
    let mut told = web.follow(0).await.unwrap();
    told.until(10, |message| matches!(message, Message::Renew).then_some(()))
        .await;
    let owner = site.person(&owner.key()).await;
    let ends = Instant::now() + Duration::from_secs(10);
    loop {
        let all: v1::List<v1::Community> = owner.get("/v1/enclaves/shop/communities").await.unwrap();
        let community = all.items.into_iter().find(|c| c.name == name("web")).unwrap();
        if let Some(next) = community.next {
            assert_eq!((community.epoch, next.epoch), (1, 2));
            break;
        }
        assert!(Instant::now() < ends, "the key is replaced");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    web.renew().await.unwrap();
    let epochs: Vec<u64> = web.opened.as_ref().unwrap().keys.iter().map(|key| key.epoch).collect();
    assert_eq!(epochs, [1, 2], "before it is used");

    // What was done is not due again, for all the time that a next round of tasks takes.
    let mut told = web.follow(0).await.unwrap();
    let heard = Instant::now();
    while heard.elapsed() < Duration::from_millis(2_500) {
        told.next().await.expect("the stream goes on");
    }
    let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    let rolls: Vec<_> = page.entries.iter().filter(|e| e.action == "coi.rotate-key").collect();
    assert_eq!(rolls.len(), 1, "{rolls:#?}");
    assert_eq!(rolls[0].actor, "schedule");
    site.kill();
    let next = tasks(&site, "roll")
        .await
        .into_iter()
        .find(|task| task.subject == subject);
    let next = next.unwrap();
    assert_eq!((next.attempts, next.claimed_until, &next.last_error), (0, None, &None));
    assert!(
        (rolled_after.plus(minute)..=now().plus(minute)).contains(&next.due),
        "{next:?}"
    );
}

/// Changes that nobody is told one by one and tokens that ended long ago are forgotten once a day; who was away for longer than
/// changes are kept is told everything anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_is_forgotten_and_who_was_away_for_long_is_told_everything() {
    let mut site = Site::start();
    let owner = site.shop().await;
    let (web, _other) = (enrolled(&owner, "web-1").await, enrolled(&owner, "web-2").await);
    let both = ["web-1", "web-2"].map(str::to_owned).into();
    let (everything, mark) = web.follow(0).await.unwrap().until_mark().await;
    assert_eq!(named(&everything), both);
    let (news, _) = web.follow(mark).await.unwrap().until_mark().await;
    assert!(named(&news).is_empty(), "nothing changed");
    site.kill();
    let [day, month] = [1, 31].map(|days| Duration::from_secs(days * 24 * 3600));
    let (enclave, old) = grow(&site, month).await;

    // More changes than are told one by one.
    site.up();
    let (news, newest) = web.follow(mark).await.unwrap().until_mark().await;
    assert_eq!(named(&news), both, "everything");
    assert_eq!(newest, mark + MOST + 100);
    let owner = site.person(&owner.key()).await;
    let path = format!("/v1/enclaves/shop/tokens/{old}");
    let _there: v1::Token = owner.get(&path).await.unwrap();
    site.kill();

    let regular = tasks(&site, "prune").await;
    assert_eq!(regular.len(), 1, "once for all");
    assert!(
        regular[0].due > now() && regular[0].due <= now().plus(day),
        "{regular:?}"
    );
    have_done(&site, "prune", &regular[0].subject).await;
    site.up();
    let owner = site.person(&owner.key()).await;
    let ends = Instant::now() + Duration::from_secs(10);
    while owner.get::<v1::Token>(&path).await.is_ok() {
        assert!(Instant::now() < ends, "the token that ended is forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let tokens: v1::List<v1::Token> = owner.get("/v1/enclaves/shop/tokens").await.unwrap();
    assert_eq!(tokens.items.len(), 3, "those of the members, and one that ended lately");
    let (news, _) = web.follow(mark).await.unwrap().until_mark().await;
    assert_eq!(named(&news), both, "everything");
    let (news, _) = web.follow(newest - MOST).await.unwrap().until_mark().await;
    assert!(named(&news).is_empty(), "what changed");
    site.kill();

    let store = open(&site).await;
    let mut read = store.read().await.unwrap();
    let feed = read.changes_since(enclave, newest - MOST - 1, 1).await.unwrap();
    assert_eq!(feed, Feed::SnapshotNeeded { newest });
    let feed = read.changes_since(enclave, newest - MOST, u32::MAX).await.unwrap();
    let Feed::Changes { changes, .. } = feed else {
        panic!("{feed:?}");
    };
    assert_eq!(changes.len() as u64, MOST);
    drop(read);
    store.close().await.unwrap();
    let next = tasks(&site, "prune").await;
    assert!(
        next[0].due > now().plus(day / 2) && next[0].due <= now().plus(day),
        "{next:?}"
    );
}

/// Writes what a server writes in a long time: changes, a token that ended as long ago, whose identifier this gives, and one that
/// ended yesterday.
async fn grow(site: &Site, long: Duration) -> (EnclaveId, String) {
    let store = open(site).await;
    let mut w = store.write().await.unwrap();
    let enclave = enclave_of(&mut w).await;
    let (web, template) = ([name("web")].into(), name("web"));
    for _ in 0..MOST + 100 {
        let change = NewChange {
            kind: "member",
            subject: "web-9",
            concerns: &web,
        };
        w.add_changes(enclave, &[change], now()).await.unwrap();
    }
    let mut made = Vec::new();
    for ago in [long.as_secs(), 24 * 3600] {
        let new = NewToken {
            template: &template,
            member: None,
            uses: 1,
            not_after: UnixTime(now().0 - ago),
            source: None,
            time_to_live: None,
            made_by: "first",
        };
        let (id, _) = w.create_token(enclave, &new, now(), &mut Kernel).await.unwrap();
        made.push(id.to_string());
    }
    w.commit().await.unwrap();
    store.close().await.unwrap();
    (enclave, made.swap_remove(0))
}
