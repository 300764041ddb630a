//! A door that carries an application, and would rather be the visitor: whatever it tries, there is one member, with the visitor's
//! key, or none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use coterie_api::v1;
use coterie_control::{
    bundle::Request,
    enrol::{REFUSED, Sealed, Token},
};
use coterie_crypto::Secret;
use http::{HeaderMap, Method};

use crate::site::{Kernel, Machine, Person, Site, name};

/// Where the visitor is.
const VISITOR: &str = "203.0.113.7:4747";

/// An enclave whose door is hostile.
struct Scene {
    site: Site,
    owner: Person,
    door: Machine,
}

impl Scene {
    async fn new() -> Self {
        let site = Site::start();
        let owner = site.shop().await;
        let token = owner.token("gate", 1).await;
        let mut door = Machine::new("gate-1", &token);
        door.enrol(&token).await.expect("it is let in");
        Self { site, owner, door }
    }

    /// The door has the server hear something, as that of a visitor.
    async fn carry(&self, bytes: &[u8], source: &str) -> Vec<u8> {
        let mut headers = HeaderMap::new();
        headers.insert(v1::SOURCE_HEADER, source.parse().unwrap());
        let connection = self.door.member().await.unwrap();
        let carried = connection.request(Method::POST, "/v1/enrol", headers, bytes.to_vec().into(), 4 << 20);
        carried.await.unwrap().accepted().unwrap().body.to_vec()
    }

    async fn web(&self) -> Vec<v1::Member> {
        let members = self.owner.members().await.into_iter();
        members
            .filter(|member| member.name.as_str().starts_with("web-"))
            .collect()
    }

    async fn uses(&self, token: &Token) -> u32 {
        let id: String = token.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let token: v1::Token = self.owner.get(&format!("/v1/enclaves/shop/tokens/{id}")).await.unwrap();
        token.uses_made
    }

    async fn enrolments(&self) -> Vec<v1::AuditEntry> {
        let page: v1::AuditPage = self.owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
        let made = page.entries.into_iter().filter(|entry| entry.action == "member.enrol");
        made.filter(|entry| entry.object.starts_with("shop/web-")).collect()
    }

    /// One member, and it is this machine.
    async fn is_the_one(&self, machine: &Machine, sealed: &Token) {
        let web = self.web().await;
        assert_eq!(web.len(), 1, "{web:?}");
        let print = Request::new(&machine.keys).unwrap().fingerprint();
        assert_eq!(web[0].fingerprint, Some(print), "with the visitor's own key");
        assert_eq!((self.uses(sealed).await, self.enrolments().await.len()), (1, 1));
    }
}

/// A visitor, its token, and what it seals.
async fn visitor(scene: &Scene, named: &str) -> (Machine, Token, Sealed) {
    let token = scene.owner.token("web", 1).await;
    assert_eq!(token.doors.len(), 1, "the door stands where visitors knock");
    let machine = Machine::new(named, &token);
    let sealed = machine.application(&token);
    (machine, token, sealed)
}

/// What a door sees of an application is enough for nothing of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_door_makes_no_application_from_what_it_sees() {
    let scene = Scene::new().await;
    let (mut machine, token, sealed) = visitor(&scene, "web-1").await;
    let bytes = &sealed.bytes;

    // Any other bit: the token's name, the key, what is asked for.
    for at in (0..bytes.len())
        .step_by(bytes.len() / 60)
        .chain([0, 1, 16, 17, 48, 49, bytes.len() - 1])
    {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(scene.carry(&changed, VISITOR).await, REFUSED, "byte {at}");
    }
    for length in [0, 1, 17, 49, 61, bytes.len() - 1] {
        assert_eq!(scene.carry(&bytes[..length], VISITOR).await, REFUSED, "{length} bytes");
    }
    // Its own key in the place of the visitor's.
    let mut with_own_key = bytes.clone();
    with_own_key[17..49].copy_from_slice(scene.door.keys.static_key().public());
    assert_eq!(scene.carry(&with_own_key, VISITOR).await, REFUSED);

    // What a door is given to let visitors in, in the place of the token's secret: as itself, and as the visitor.
    let knock = token.knock_key(scene.door.keys.static_key().public());
    let guessed = Token::from_parts(
        token.id,
        Secret::new(*knock.key.expose()),
        (token.enclave, token.root_hash),
        token.server,
        token.not_after,
        token.doors.clone(),
        token.servers.clone(),
    );
    for named in ["web-1", "web-2", "gate-1"] {
        let mut own = Machine::new(named, &guessed);
        assert_eq!(
            scene.carry(&own.application(&guessed).bytes, VISITOR).await,
            REFUSED,
            "{named}"
        );
        own.keys = scene.door.keys.for_delivery(&mut Kernel);
        assert_eq!(
            scene.carry(&own.application(&guessed).bytes, VISITOR).await,
            REFUSED,
            "{named}"
        );
    }
    assert!(scene.web().await.is_empty());
    assert_eq!(scene.uses(&token).await, 0, "nothing of it used the token up");

    // The visitor's own is good still, and makes the visitor a member.
    let reply = scene.carry(bytes, VISITOR).await;
    machine.take(&sealed, &reply).expect("let in");
    scene.is_the_one(&machine, &token).await;
    let mut told = machine.follow(0).await.unwrap();
    let _everything = told.until_mark().await;
    // Nor is the door that member when it asks for its bundle: its certificate says who it is.
    let request = Request::new(&machine.keys.for_delivery(&mut Kernel)).unwrap();
    let connection = scene.door.member().await.unwrap();
    let asked = connection.request(
        Method::POST,
        "/v1/node/bundle",
        HeaderMap::new(),
        request.to_text().into(),
        1 << 20,
    );
    let refused = asked.await.unwrap().accepted().unwrap_err();
    assert_eq!(refused.code(), Some("not-a-member"));
}

/// An application that is carried twice makes one member; when that is gone, none.
#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_carries_an_application_again_makes_nothing_of_it() {
    let mut scene = Scene::new().await;
    let (mut machine, token, sealed) = visitor(&scene, "web-1").await;
    let reply = scene.carry(&sealed.bytes, VISITOR).await;
    machine.take(&sealed, &reply).expect("let in");
    for source in [VISITOR, "198.51.100.9:1"] {
        assert_eq!(scene.carry(&sealed.bytes, source).await, reply, "the same, to the byte");
    }
    scene.is_the_one(&machine, &token).await;
    let endpoint = scene.web().await[0].endpoints[0];
    assert_eq!(endpoint.to_string(), VISITOR, "nobody is moved by it");
    let mut told = machine.follow(0).await.unwrap();
    let _everything = told.until_mark().await;

    let revoked = scene
        .owner
        .post::<v1::CutOff>("/v1/enclaves/shop/members/web-1/revoke?wait_ms=0", &());
    revoked.await.unwrap();
    let again = scene.carry(&sealed.bytes, VISITOR).await;
    assert!(again == reply || again == REFUSED, "nothing that is new");
    assert!(scene.web().await.is_empty());
    // A server that begins anew remembers no reply.
    scene.site.kill();
    scene.site.up();
    scene.owner = scene.site.person(&scene.owner.key()).await;
    assert_eq!(scene.carry(&sealed.bytes, VISITOR).await, REFUSED);
    assert!(scene.web().await.is_empty());
    assert_eq!(scene.uses(&token).await, 1);
}

/// A door is believed where its visitor is. A lie makes nobody else of the visitor, and the audit log names the liar.
#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_says_another_source_gains_nothing() {
    let scene = Scene::new().await;
    let (mut machine, token, sealed) = visitor(&scene, "web-1").await;
    let reply = scene.carry(&sealed.bytes, "198.51.100.9:4747").await;
    machine.take(&sealed, &reply).expect("let in");
    scene.is_the_one(&machine, &token).await;
    let made = &scene.enrolments().await[0];
    let told = (made.detail["from"].as_str(), made.detail["door"].as_str());
    assert_eq!(
        told,
        (Some("198.51.100.9:4747"), Some("gate-1")),
        "who said so is known"
    );

    // A word that is no address is no word: the door itself is where the application came from.
    let from = v1::NewToken {
        template: name("web"),
        member: None,
        uses: 1,
        ttl_seconds: 600,
        ephemeral_seconds: None,
        from: Some("203.0.113.0/24".to_owned()),
    };
    let from = scene.owner.token_of("shop", &from).await;
    let machine = Machine::new("web-2", &from);
    for source in ["", "203.0.113.7", "203.0.113.7:4747, 198.51.100.9:1", "web-2"] {
        assert_eq!(
            scene.carry(&machine.application(&from).bytes, source).await,
            REFUSED,
            "{source:?}"
        );
    }
    assert_eq!(scene.uses(&from).await, 0);
}

/// A visitor takes the server's answer to what it asked, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_takes_no_answer_but_its_own() {
    let scene = Scene::new().await;
    let token = scene.owner.token("app", 2).await;
    let (mut first, second) = (Machine::new("app-1", &token), Machine::new("app-2", &token));
    let (of_first, of_second) = (first.application(&token), second.application(&token));
    let to_first = scene.carry(&of_first.bytes, VISITOR).await;
    let to_second = scene.carry(&of_second.bytes, VISITOR).await;
    // The same machine once more, by the keys that it has: another answer.
    let once_more = first.application(&token);
    let to_once_more = scene.carry(&once_more.bytes, VISITOR).await;
    assert!(to_once_more != REFUSED && to_once_more != to_first);

    // Another's, an old one, one that was cut or changed, and the door's own bundle.
    assert!(of_first.open_reply(&to_second).is_err());
    assert!(of_second.open_reply(&to_first).is_err());
    assert!(once_more.open_reply(&to_first).is_err());
    assert!(of_first.open_reply(&to_once_more).is_err());
    for at in (2..to_first.len()).step_by(to_first.len() / 40) {
        let mut changed = to_first.clone();
        changed[at] ^= 1;
        assert!(of_first.open_reply(&changed).is_err(), "byte {at}");
        assert!(of_first.open_reply(&to_first[..at]).is_err(), "{at} bytes");
    }
    let request = Request::new(&scene.door.keys.for_delivery(&mut Kernel)).unwrap();
    let connection = scene.door.member().await.unwrap();
    let asked = connection.request(
        Method::POST,
        "/v1/node/bundle",
        HeaderMap::new(),
        request.to_text().into(),
        1 << 20,
    );
    let bundle = asked.await.unwrap().accepted().unwrap().body;
    assert!(of_first.open_reply(&[&to_first[..13], &bundle].concat()).is_err());
    // That it is refused is all that a door can make a visitor believe.
    assert!(of_first.open_reply(REFUSED).unwrap().is_none());

    let opened = first.take(&once_more, &to_once_more).expect("its own answer is good");
    assert_eq!(opened.name, name("app-1"));
}
