//! Tokens under everybody at once, and what their refusals say to whom.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use coterie_api::v1;
use coterie_control::{
    enrol::{REFUSED, Token},
    follow::Message,
};
use http::{HeaderMap, Method};

use crate::site::{Machine, Person, Site, name, now};

/// 64 machines at once with one single-use token: exactly one gets in. `COTERIE_TOKEN_ROUNDS` says how often.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_token_lets_one_in() {
    let rounds: usize = std::env::var("COTERIE_TOKEN_ROUNDS").map_or(20, |n| n.parse().unwrap());
    let site = Site::start();
    let owner = site.shop().await;
    for round in 0..rounds {
        for uses in [1_usize, if round % 5 == 0 { 7 } else { 1 }] {
            let token = std::sync::Arc::new(owner.token("web", u32::try_from(uses).unwrap()).await);
            let tries: Vec<_> = (0..64)
                .map(|n| {
                    let token = std::sync::Arc::clone(&token);
                    tokio::spawn(async move {
                        let mut machine = Machine::new(&format!("web-{round}-{uses}-{n}"), &token);
                        machine.enrol(&token).await.is_some()
                    })
                })
                .collect();
            let mut winners = 0;
            for tried in tries {
                winners += usize::from(tried.await.unwrap());
            }
            assert_eq!(winners, uses, "round {round}");
        }
        let names: Vec<_> = owner
            .members()
            .await
            .into_iter()
            .filter(|member| member.name.as_str().starts_with("web-"))
            .map(|member| member.name)
            .collect();
        let _ended: v1::Ended = owner
            .post("/v1/enclaves/shop/members/end", &v1::EndMembers { names })
            .await
            .unwrap();
    }
}

/// A token that is refused, or what is none.
struct Case {
    bytes: Vec<u8>,
    /// What the administrator is told.
    words: &'static str,
}

/// A token of an hour for one web server, changed.
fn new_token(change: impl FnOnce(&mut v1::NewToken)) -> v1::NewToken {
    let mut new = v1::NewToken {
        template: name("web"),
        member: None,
        uses: 1,
        ttl_seconds: 3600,
        ephemeral_seconds: None,
        from: None,
    };
    change(&mut new);
    new
}

/// One application for each way in which a token can be refused.
async fn refused_cases(site: &Site, owner: &Person) -> Vec<Case> {
    let other = site.tenant("umbrella").await;
    let _applied = other.apply("shop", crate::site::FILE).await.unwrap();
    let foreign = other.token("web", 1).await;
    let spent = owner.token("web", 1).await;
    assert!(Machine::new("web-1", &spent).enrol(&spent).await.is_some());
    let expired = owner.token_of("shop", &new_token(|new| new.ttl_seconds = 1)).await;
    let elsewhere = new_token(|new| new.from = Some("192.0.2.0/24".to_owned()));
    let elsewhere = owner.token_of("shop", &elsewhere).await;
    let bound = owner
        .token_of("shop", &new_token(|new| new.member = Some(name("web-9"))))
        .await;
    let revoked = owner.token("web", 1).await;
    let hex: String = revoked.id.iter().map(|byte| format!("{byte:02x}")).collect();
    owner.delete(&format!("/v1/enclaves/shop/tokens/{hex}")).await.unwrap();
    while now() <= expired.not_after {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let good = owner.token("web", 1).await;
    let of = |token: &Token| Machine::new("web-2", token).application(token).bytes;
    let case = |bytes: Vec<u8>, words| Case { bytes, words };
    // By the name of a token that there is, without its secret; by one that nobody has; and no application at all.
    let (mut forged, mut unknown) = (of(&good), of(&good));
    *forged.last_mut().unwrap() ^= 1;
    unknown[1..17].fill(7);
    vec![
        case(of(&spent), "used up"),
        case(of(&expired), "expired"),
        case(of(&elsewhere), "not for use from this address"),
        case(of(&bound), "another name"),
        case(of(&revoked), "revoked"),
        case(of(&foreign), "another enclave"),
        case(forged, "was not made with this token by the owner of its static key"),
        case(unknown, "there is no such token"),
        case(of(&good)[..40].to_vec(), "malformed"),
        case(Vec::new(), "malformed"),
        case(vec![1; 10], "malformed"),
        case(vec![9; 200], "version 9"),
    ]
}

/// Whatever is wrong with a token, the wire says the same to the last header, and the administrator what.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_the_same_on_the_wire_and_different_in_the_audit_log() {
    let site = Site::start();
    let owner = site.shop().await;
    let cases = refused_cases(&site, &owner).await;
    let members = owner.members().await.len();
    let token = owner.token("web", 1).await;
    let mut answers = Vec::new();
    let mut last: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    for case in &cases {
        let visitor = Machine::new("web-3", &token).visitor().await;
        let bytes = case.bytes.clone().into();
        let answer = visitor.request(Method::POST, "/v1/enrol", HeaderMap::new(), bytes, 1 << 16);
        let mut answer = answer.await.unwrap();
        let _when = answer.headers.remove("date");
        assert_eq!(&answer.body[..], REFUSED, "{}", case.words);
        answers.push((answer.status, answer.headers, answer.body));

        let page = format!("/v1/audit?after={}&limit=1000", last.next);
        last = owner.get(&page).await.unwrap();
        let [entry] = &last.entries[..] else {
            panic!("{}: {:#?}", case.words, last.entries);
        };
        let reason = entry.detail["reason"].as_str().unwrap();
        assert_eq!(entry.action, "member.refuse");
        assert!(reason.contains(case.words), "{}: {reason}", case.words);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(owner.members().await.len(), members);
    let tokens: v1::List<v1::Token> = owner.get("/v1/enclaves/shop/tokens").await.unwrap();
    assert_eq!(tokens.items.iter().map(|token| token.uses_made).sum::<u32>(), 1);
}

/// A server that listens in both families tells IPv4 addresses as what they are.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_told_as_what_they_are() {
    let mut site = Site::made();
    let std::net::IpAddr::V4(ip) = site.address.ip() else {
        panic!("loopback is IPv4 here");
    };
    site.address.set_ip(ip.to_ipv6_mapped().into());
    site.up();
    let owner = site.shop().await;
    let token = owner.token("web", 1).await;
    assert!(Machine::new("web-1", &token).enrol(&token).await.is_some());
    assert!(
        Machine::new("web-2", &token).enrol(&token).await.is_none(),
        "it is used up"
    );
    let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    for action in ["member.enrol", "member.refuse"] {
        let entry = page.entries.iter().find(|entry| entry.action == action).unwrap();
        let from: std::net::SocketAddr = entry.detail["from"].as_str().unwrap().parse().unwrap();
        assert!(from.is_ipv4(), "{action}: {from}");
    }
    let seen = owner
        .members()
        .await
        .into_iter()
        .find(|member| member.name == name("web-1"));
    assert!(seen.unwrap().endpoints[0].is_ipv4());
}

/// Who revokes a member twice is told that it is gone, and not that it never was.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_gone_already_was_one() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("web", 1).await;
    assert!(Machine::new("web-1", &token).enrol(&token).await.is_some());
    let revoke = async |member: &str| {
        let path = format!("/v1/enclaves/shop/members/{member}/revoke");
        owner.post::<v1::CutOff>(&path, &()).await
    };
    revoke("web-1").await.unwrap();
    for (member, words) in [("web-1", "no member any more"), ("web-2", "no such member")] {
        let coterie_api::remote::RemoteError::Problem { problem, .. } = revoke(member).await.unwrap_err() else {
            panic!("another error");
        };
        assert_eq!(problem.status, 404, "{problem:?}");
        assert!(problem.detail.contains(words), "{problem:?}");
    }
}

/// The same keys, the same token: the answer is given again, and nothing is counted twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_given_again() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("web", 1).await;
    let mut machine = Machine::new("web-1", &token);
    let first = machine.enrol(&token).await.unwrap().member;
    let again = machine.enrol(&token).await.expect("the same machine").member;
    assert_eq!(first, again);
    let mut other = Machine::new("web-1", &token);
    assert!(other.enrol(&token).await.is_none(), "another machine of this name");
}

/// A ticket brings a machine back once; the one before it tells of a clone.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("app", 1).await;
    let mut machine = Machine::new("app-1", &token);
    let first = machine.enrol(&token).await.unwrap().member;
    let ticket = machine.ticket.as_ref().expect("the template says so").duplicate();

    let mut rebooted = Machine::new("app-1", &token);
    rebooted.ticket = Some(ticket.duplicate());
    let second = rebooted.enrol(&token).await.expect("it comes back").member;
    assert_ne!(first, second, "as a new enrolment");
    let mut clone = Machine::new("app-1", &token);
    clone.ticket = Some(ticket);
    assert!(clone.enrol(&token).await.is_none(), "an old ticket");

    let mut again = Machine::new("app-1", &token);
    again.ticket = rebooted.ticket;
    assert!(again.enrol(&token).await.is_some(), "the newest ticket is good still");
    let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    assert!(
        page.entries
            .iter()
            .any(|entry| entry.detail.to_string().contains("cloned"))
    );
}

/// A machine that comes back with a ticket is as ephemeral as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_member_that_came_back_ends_too() {
    let site = Site::start();
    let owner = site.shop().await;
    let short_lived = v1::NewToken {
        template: name("app"),
        member: None,
        uses: 1,
        ttl_seconds: 600,
        ephemeral_seconds: Some(3),
        from: None,
    };
    let token = owner.token_of("shop", &short_lived).await;
    let mut machine = Machine::new("app-1", &token);
    let first = machine.enrol(&token).await.unwrap().member;
    let mut rebooted = Machine::new("app-1", &token);
    rebooted.ticket = machine.ticket;
    let second = rebooted.enrol(&token).await.expect("it comes back").member;
    assert_ne!(first, second, "as a new enrolment");
    let again = rebooted.enrol(&token).await.expect("its reply was lost").member;
    assert_eq!(second, again);

    let lives = |members: Vec<v1::Member>| {
        let member = members.into_iter().find(|member| member.name == name("app-1"));
        member.map(|member| member.ephemeral_ttl)
    };
    assert_eq!(lives(owner.members().await), Some(Some(3)));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while lives(owner.members().await).is_some() {
        assert!(std::time::Instant::now() < deadline, "it is a member still");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// A machine may come back with its ticket after its token ended, and doors are told so when it ends, though nobody makes or
/// revokes a token meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn doors_stay_open_to_who_comes_back_when_its_token_ends() {
    let site = Site::start();
    let owner = site.shop().await;
    let gate = owner.token("gate", 1).await;
    let mut door = Machine::new("gate-1", &gate);
    door.enrol(&gate).await.expect("let in");
    let brief = v1::NewToken {
        template: name("app"),
        member: None,
        uses: 1,
        ttl_seconds: 3,
        ephemeral_seconds: None,
        from: None,
    };
    let brief = owner.token_of("shop", &brief).await;
    let mut machine = Machine::new("app-1", &brief);
    machine.enrol(&brief).await.expect("let in");
    let mut told = door.follow(0).await.unwrap();
    let lasts = |message: &Message| {
        let Message::Knocks(knocks) = message else { return None };
        let known = knocks.iter().find(|knock| knock.key.tag.0 == brief.id)?;
        Some(known.not_after)
    };
    assert_eq!(told.until(2, lasts).await, brief.not_after);
    assert!(told.until(10, lasts).await > now().plus(std::time::Duration::from_secs(24 * 3600)));
}

/// A template's `match` decides who gets it by a token for anybody; a token for one name leaves that to its maker.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_takes_whom_it_matches() {
    let site = Site::start();
    let owner = site.tenant("acme").await;
    let file = crate::site::FILE.replace(
        "[template.web]",
        "[template.web]\nmatch = { name = \"web-*\", cpus = \">=2\" }",
    );
    owner.apply("shop", &file).await.unwrap();
    let token = owner.token("web", 5).await;
    let with = |named: &str, cpus: u64| {
        let mut machine = Machine::new(named, &token);
        machine.facts.cpus = Some(cpus);
        machine
    };
    assert!(with("db-1", 4).enrol(&token).await.is_none(), "another name");
    assert!(with("web-1", 1).enrol(&token).await.is_none(), "one processor");
    assert!(
        Machine::new("web-1", &token).enrol(&token).await.is_none(),
        "nobody knows how many"
    );
    assert!(with("web-1", 2).enrol(&token).await.is_some());
    let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    let refused = page
        .entries
        .iter()
        .filter(|e| e.detail.to_string().contains("template `web` matches"));
    assert_eq!(refused.count(), 3);
    let tokens: v1::List<v1::Token> = owner.get("/v1/enclaves/shop/tokens").await.unwrap();
    assert_eq!(tokens.items[0].uses_made, 1, "who is refused uses nothing up");

    let bound = v1::NewToken {
        template: name("web"),
        member: Some(name("other")),
        uses: 1,
        ttl_seconds: 600,
        ephemeral_seconds: None,
        from: None,
    };
    let bound = owner.token_of("shop", &bound).await;
    assert!(Machine::new("other", &bound).enrol(&bound).await.is_some());
}
