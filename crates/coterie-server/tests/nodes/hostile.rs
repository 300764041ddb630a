//! Members, doors and strangers that do what they should not.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on fails, and looks for one kind of message"
)]

use coterie_api::v1;
use coterie_control::{enrol::REFUSED, follow::Message};
use http::{HeaderMap, Method};

use crate::site::{Machine, Person, Site, name};

async fn enrolled(owner: &Person, template: &str, named: &str) -> Machine {
    let token = owner.token(template, 1).await;
    let mut machine = Machine::new(named, &token);
    machine.enrol(&token).await.expect("it is let in");
    machine
}

async fn apply(machine: &Machine, bytes: Vec<u8>) -> Vec<u8> {
    let visitor = machine.visitor().await;
    let answer = visitor
        .request(Method::POST, "/v1/enrol", HeaderMap::new(), bytes.into(), 4 << 20)
        .await;
    answer.unwrap().accepted().unwrap().body.to_vec()
}

/// A stream that another one of the same member replaced ends: it neither stays nor turns.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_ends_the_first() {
    let site = Site::start();
    let owner = site.shop().await;
    let web = enrolled(&owner, "web", "web-1").await;
    let mut first = web.follow(0).await.unwrap();
    let _everything = first.until_mark().await;
    let mut second = web.follow(0).await.unwrap();
    let _everything = second.until_mark().await;
    while first.next().await.is_some() {}
    assert!(second.next().await.is_some());
}

/// Who saw an application and shows it again gets what its maker had, to the byte, and nothing is made for it: the machine's ticket
/// stays good. Once the machine follows, there is nothing more to get.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_shown_again_makes_nothing() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("app", 1).await;
    let mut machine = Machine::new("app-1", &token);
    let sealed = machine.application(&token);
    let first = apply(&machine, sealed.bytes.clone()).await;
    assert!(first == apply(&machine, sealed.bytes.clone()).await, "the same bytes");
    machine.take(&sealed, &first).expect("let in");
    let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    assert_eq!(page.entries.iter().filter(|e| e.action == "member.enrol").count(), 1);

    let mut stream = machine.follow(0).await.unwrap();
    let _everything = stream.until_mark().await;
    let mut copy = Machine::new("app-1", &token);
    copy.keys = machine.keys.for_delivery(&mut crate::site::Kernel);
    assert!(copy.enrol(&token).await.is_none(), "another application of these keys");
    let mut rebooted = Machine::new("app-1", &token);
    rebooted.ticket = machine.ticket.as_ref().map(coterie_control::enrol::Ticket::duplicate);
    assert!(rebooted.enrol(&token).await.is_some(), "the ticket is good");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_isolated_does_not_leave() {
    let site = Site::start();
    let owner = site.shop().await;
    let web = enrolled(&owner, "web", "web-1").await;
    let _cut: v1::CutOff = owner
        .post("/v1/enclaves/shop/members/web-1/isolate?wait_ms=0", &())
        .await
        .unwrap();
    let connection = web.member().await.unwrap();
    let answer = connection
        .request(
            Method::POST,
            "/v1/node/bye",
            HeaderMap::new(),
            Vec::new().into(),
            1 << 16,
        )
        .await;
    assert_eq!(answer.unwrap().accepted().unwrap_err().code(), Some("isolated"));
    assert!(
        owner
            .members()
            .await
            .iter()
            .any(|m| m.state == v1::MemberState::Isolated)
    );
}

/// A name that somebody has just got is not taken by who holds the same token for many.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_not_taken_by_who_holds_the_same_token() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("web", 10).await;
    assert!(Machine::new("web-1", &token).enrol(&token).await.is_some());
    assert!(Machine::new("web-1", &token).enrol(&token).await.is_none());
    // A token that is bound to the name says that it is for its new machine.
    let bound = v1::NewToken {
        template: name("web"),
        member: Some(name("web-1")),
        uses: 1,
        ttl_seconds: 600,
        ephemeral_seconds: None,
        from: None,
    };
    let bound = owner.token_of("shop", &bound).await;
    assert!(Machine::new("web-1", &bound).enrol(&bound).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_lets_nobody_back_in() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("app", 1).await;
    let mut machine = Machine::new("app-1", &token);
    let sealed = machine.application(&token);
    let first = apply(&machine, sealed.bytes.clone()).await;
    machine.take(&sealed, &first).expect("let in");
    let hex: String = token.id.iter().map(|byte| format!("{byte:02x}")).collect();
    owner.delete(&format!("/v1/enclaves/shop/tokens/{hex}")).await.unwrap();
    let mut rebooted = Machine::new("app-1", &token);
    rebooted.ticket = machine.ticket.as_ref().map(coterie_control::enrol::Ticket::duplicate);
    assert!(rebooted.enrol(&token).await.is_none());
    let again = machine.application(&token);
    assert_eq!(apply(&machine, again.bytes.clone()).await, REFUSED);
}

/// The word of a door that is isolated counts for nothing, and it is told to let nobody in.
#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_door_is_no_door() {
    let site = Site::start();
    let owner = site.shop().await;
    let gate = enrolled(&owner, "gate", "gate-1").await;
    let _token = owner.token("web", 1).await;
    let mut told = gate.follow(0).await.unwrap();
    let has_some = |m: &Message| match m {
        Message::Knocks(knocks) => Some(!knocks.is_empty()),
        _ => None,
    };
    assert!(told.until(5, has_some).await);
    let _cut: v1::CutOff = owner
        .post("/v1/enclaves/shop/members/gate-1/isolate?wait_ms=0", &())
        .await
        .unwrap();
    assert!(!told.until(5, has_some).await, "all knock keys are taken back");
    let elsewhere = v1::NewToken {
        template: name("web"),
        member: None,
        uses: 1,
        ttl_seconds: 600,
        ephemeral_seconds: None,
        from: Some("203.0.113.0/24".to_owned()),
    };
    let elsewhere = owner.token_of("shop", &elsewhere).await;
    let machine = Machine::new("web-7", &elsewhere);
    let sealed = machine.application(&elsewhere);
    let mut headers = HeaderMap::new();
    headers.insert(v1::SOURCE_HEADER, "203.0.113.7:4747".parse().unwrap());
    let connection = gate.member().await.unwrap();
    let answer = connection
        .request(Method::POST, "/v1/enrol", headers, sealed.bytes.into(), 1 << 20)
        .await;
    assert_eq!(&answer.unwrap().accepted().unwrap().body[..], REFUSED);
}

/// A static key belongs to one enrolment on the whole server; who brings it elsewhere is refused, and its token stays unused.
#[tokio::test(flavor = "multi_thread")]
async fn one_static_key_is_good_for_one_enclave() {
    let site = Site::start();
    let owner = site.shop().await;
    let other = site.tenant("umbrella").await;
    let _applied = other.apply("shop", crate::site::FILE).await.unwrap();
    let web = enrolled(&owner, "web", "web-1").await;
    let token = other.token("web", 1).await;
    let mut thief = Machine::new("web-1", &token);
    thief.keys = web.keys.for_delivery(&mut crate::site::Kernel);
    assert!(thief.enrol(&token).await.is_none());
    let page: v1::AuditPage = other.get("/v1/audit?after=0&limit=1000").await.unwrap();
    assert!(
        page.entries
            .iter()
            .any(|e| e.detail.to_string().contains("another enrolment"))
    );
    assert!(
        Machine::new("web-1", &token).enrol(&token).await.is_some(),
        "the token was not used"
    );
}

/// What a node cannot have meant is refused in words that programs read.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_none_is_a_problem() {
    let site = Site::start();
    let owner = site.shop().await;
    let web = enrolled(&owner, "web", "web-1").await;
    let connection = web.member().await.unwrap();
    for body in [&b""[..], b"{", b"{\"mark\":1,\"other\":2}", b"{\"mark\":-1}"] {
        let answer = connection
            .request(
                Method::POST,
                "/v1/node/ack",
                crate::site::json(),
                body.to_vec().into(),
                1 << 16,
            )
            .await;
        assert_eq!(answer.unwrap().accepted().unwrap_err().code(), Some("bad-request"));
    }
}

/// What is for members is not read of who shows no certificate, and of members as much as they can mean.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_not_read() {
    let site = Site::start();
    let owner = site.shop().await;
    let web = enrolled(&owner, "web", "web-1").await;
    let long = [&b"{\"mark\":1"[..], &vec![b' '; 200 << 10], b"}"].concat();
    for path in ["/v1/node/follow", "/v1/node/ack", "/v1/node/explained"] {
        for (connection, code) in [
            (web.visitor().await, "not-a-member"),
            (web.member().await.unwrap(), "too-large"),
        ] {
            let body = long.clone().into();
            let answer = connection
                .request(Method::POST, path, crate::site::json(), body, 1 << 16)
                .await;
            assert_eq!(answer.unwrap().accepted().unwrap_err().code(), Some(code), "{path}");
        }
    }
}
