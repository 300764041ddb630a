//! What must hold of tokens, and of what a machine and the server say to each other end to end. What a checksum or a seal
//! would keep the fuzzer out of is made again, as `docs/BUNDLE.md` section 9 says it.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coterie_control::{
    bundle::{Keys, MAX_BYTES, MAX_SERVERS, Request},
    enrol::{self, Application, DoorAddress, MAX_DOORS, NotOpened, Opened, REFUSED, Reply, Sealed, Token},
    file::{Facts, Uuid},
};
use coterie_crypto::{
    Entropy, Secret, SeededEntropy,
    aead::{Key, Suite},
    dh::KeyPair,
    hash,
    sign::SigningKey,
};
use coterie_model::{EnclaveId, Name, UnixTime};

use super::{control::Property, remake::edited};

/// Every target of this file, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[("token", token), ("application", application), ("reply", reply)];

const PREFIX: &str = "coterie-join-1.";
/// Version, token, static key, nonce.
const HEADER: usize = 61;

/// A true token, and what was said under it.
struct Enrolment {
    server: KeyPair,
    token: Token,
    token_text: String,
    /// Without its checksum.
    token_body: Vec<u8>,
    keys: KeyPair,
    identity: SigningKey,
    sealed: Sealed,
    opened: Opened,
    /// The application in clear, and how much of it is the request.
    text: Vec<u8>,
    request: usize,
    application_key: Secret<32>,
    reply_key: Secret<32>,
    /// What a door would derive in the place of the first of the two.
    door_key: Secret<32>,
}

static TRUE: LazyLock<Enrolment> = LazyLock::new(Enrolment::new);

impl Enrolment {
    fn new() -> Self {
        let mut entropy = SeededEntropy::from_number(1);
        let server = KeyPair::generate(&mut entropy);
        let doors = ["192.0.2.1:4747", "[2001:db8::1]:4748"].map(|endpoint| DoorAddress {
            endpoint: endpoint.parse().expect("an endpoint"),
            static_key: [1; 32],
        });
        let servers = ["10.77.0.5:4750", "[fd77::5]:4750"].map(|server| server.parse().expect("an endpoint"));
        let (doors, servers) = (doors.to_vec(), servers.to_vec());
        let token = Token::draw(
            (EnclaveId([6; 16]), [7; 32]),
            *server.public(),
            UnixTime(9),
            doors,
            servers,
            &mut entropy,
        );
        let keys = Keys::generate(Name::new("web-7").expect("a name"), &mut entropy);
        let asked = Application {
            request: Request::new(&keys).expect("true keys"),
            facts: Facts {
                name: Some("web-7".into()),
                labels: [("role", "web"), ("zone", "a")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                mac: vec![[1, 2, 3, 4, 5, 6], [2; 6]],
                uuid: Some(Uuid::from_bytes([9; 16])),
                cpus: Some(4),
                memory: Some(1 << 30),
            },
            ticket: Some(Secret::new([5; 32])),
        };
        let static_key = keys.static_key();
        let sealed = enrol::seal(&token, &static_key, &asked, &mut entropy).expect("a true server key");
        let opened = enrol::open(&sealed.bytes, token.secret(), &server).expect("a true application");
        let shared = static_key.agree(server.public()).expect("true keys");
        let derived = |secret: &[u8; 32], label: &[u8]| {
            hash::derive(secret, shared.expose(), &[label, &token.id, static_key.public()])
        };
        let application_key = derived(token.secret().expose(), b"coterie/1 application");
        let knock = token.knock_key(&token.doors[0].static_key).key;
        let mut text = sealed.bytes[HEADER..].to_vec();
        let text = Key::new(Suite::Aes256GcmSiv, &application_key)
            .open(
                sealed.bytes[49..HEADER].try_into().expect("12 bytes"),
                &sealed.bytes[..HEADER],
                &mut text,
            )
            .expect("sealed as the document says")
            .to_vec();
        let token_text = token.to_text().to_string();
        let mut token_body = URL_SAFE_NO_PAD
            .decode(&token_text[PREFIX.len()..])
            .expect("a true token");
        token_body.truncate(token_body.len() - 4);
        Self {
            request: 2 + usize::from(u16::from_be_bytes([text[0], text[1]])),
            reply_key: derived(token.secret().expose(), b"coterie/1 reply"),
            door_key: derived(knock.expose(), b"coterie/1 application"),
            application_key,
            identity: keys.identity_key(),
            keys: static_key,
            server,
            token,
            token_text,
            token_body,
            sealed,
            opened,
            text,
        }
    }

    /// An application with another text, or under another key.
    fn sealed(&self, key: &Secret<32>, text: &[u8]) -> Vec<u8> {
        sealed(key, &self.sealed.bytes[..HEADER], &[], text)
    }

    /// A request, changed, with its owner's signature behind it, in front of the true rest.
    fn with_request(&self, edits: &[u8]) -> Vec<u8> {
        let (request, rest) = self.text.split_at(self.request);
        let mut request = edited(&request[2..], edits);
        if let Some((before, signature)) = request.split_last_chunk_mut::<64>() {
            *signature = self.identity.sign("coterie/1 request", before);
        }
        let length = u16::try_from(request.len()).expect("a short input").to_be_bytes();
        [&length[..], &request, rest].concat()
    }
}

/// `text` behind `header`, whose last 12 bytes are the nonce, in answer to `about`.
fn sealed(key: &Secret<32>, header: &[u8], about: &[u8], text: &[u8]) -> Vec<u8> {
    let mut sealed = text.to_vec();
    let nonce = *header.last_chunk().expect("a header ends with its nonce");
    let tag = Key::new(Suite::Aes256GcmSiv, key).seal(nonce, &[header, about].concat(), &mut sealed);
    [header, &sealed, &tag].concat()
}

/// Draws the nonce that was drawn before.
struct Again([u8; 12]);

impl Entropy for Again {
    fn fill(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.0);
    }
}

/// A token that is accepted has one spelling, but for white space around it.
pub(crate) fn token(data: &[u8]) {
    let site = &*TRUE;
    let (kind, rest) = data.split_first().unwrap_or((&2, &[]));
    let with_checksum = |mut body: Vec<u8>| {
        let sum = hash::sha256(&[b"coterie/1 token", &body]);
        body.extend_from_slice(&sum[..4]);
        (PREFIX.to_owned() + &URL_SAFE_NO_PAD.encode(body)).into_bytes()
    };
    let bytes = match kind % 4 {
        0 => with_checksum(edited(&site.token_body, rest)),
        1 => edited(site.token_text.as_bytes(), rest),
        2 => rest.to_vec(),
        _ => with_checksum(rest.to_vec()),
    };
    let text = String::from_utf8_lossy(&bytes);
    match Token::parse(&text) {
        Ok(token) => {
            assert_eq!(*token.to_text(), text.trim());
            let (doors, servers) = (token.doors.len(), token.servers.len());
            assert!(doors <= MAX_DOORS && servers <= MAX_SERVERS && doors + servers > 0);
            let keys: Vec<_> = token.doors.iter().map(|d| token.knock_key(&d.static_key)).collect();
            assert!(
                keys.iter()
                    .all(|k| k.tag.0 == token.id && k.key.expose() != token.secret().expose())
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What opens was sealed with the token's secret by the owner of the static key, has one encoding, and is in its bounds.
pub(crate) fn application(data: &[u8]) {
    let site = &*TRUE;
    let (kind, rest) = data.split_first().unwrap_or((&3, &[]));
    let (request, facts) = site.text.split_at(site.request);
    let true_key = &site.application_key;
    let (text, sealed) = match kind % 8 {
        0 => (edited(&site.text, rest), true),
        1 => (site.with_request(rest), true),
        2 => (rest.to_vec(), true),
        3 => ([request, rest].concat(), true),
        4 => ([request, &edited(facts, rest)].concat(), true),
        _ => (Vec::new(), false),
    };
    let bytes = match kind % 8 {
        5 => edited(&site.sealed.bytes, rest),
        6 => rest.to_vec(),
        7 => site.sealed(&site.door_key, &edited(&site.text, rest)),
        _ => site.sealed(true_key, &text),
    };
    let named = enrol::token_of(&bytes);
    match enrol::open(&bytes, site.token.secret(), &site.server) {
        Ok(opened) => {
            assert!(sealed || bytes == site.sealed.bytes, "nobody sealed it");
            assert_eq!(named, Ok(site.token.id));
            asked(site, &opened.application);
            let nonce = bytes[49..HEADER].try_into().expect("12 bytes");
            let again = enrol::seal(&site.token, &site.keys, &opened.application, &mut Again(nonce));
            let again = again.expect("a true server key");
            assert_eq!(again.bytes, bytes, "one encoding");
            let reply = opened.reply(&reply_of(None, b"a bundle"), &mut Again(nonce));
            let other = site.sealed.open_reply(&reply);
            assert_eq!(other.is_ok(), bytes == site.sealed.bytes, "one application's reply");
            let reply = again.open_reply(&reply).expect("sealed to who asked");
            assert_eq!(reply.expect("not refused").bundle, b"a bundle");
        }
        Err(error) => {
            assert!(!error.to_string().is_empty() && bytes != site.sealed.bytes);
            assert!(named.is_ok() || named == Err(error));
            assert!(!sealed || error != NotOpened::Forged, "sealed as it must be");
        }
    }
}

fn asked(site: &Enrolment, application: &Application) {
    assert_eq!(application.request.static_key(), site.keys.public());
    let facts = &application.facts;
    let short = |text: &String| text.len() <= 256;
    assert!(facts.name.as_ref().is_none_or(|name| short(name) && !name.is_empty()));
    assert!(facts.labels.len() <= 32 && facts.labels.iter().all(|(key, value)| short(key) && short(value)));
    assert!(facts.mac.len() <= 16 && facts.cpus != Some(0) && facts.memory != Some(0));
}

fn reply_of(ticket: Option<Secret<32>>, bundle: &[u8]) -> Reply {
    Reply {
        bundle: bundle.to_vec(),
        ticket,
    }
}

/// What a machine opens was sealed by the server, in answer to it, and has one encoding. The empty input stands for a reply
/// that is too long to be read.
pub(crate) fn reply(data: &[u8]) {
    let site = &*TRUE;
    let header = [&[1], &[3; 12][..]].concat();
    let true_text = [&[1], &[6; 32][..], b"a bundle"].concat();
    let about = site
        .sealed
        .bytes
        .last_chunk::<16>()
        .expect("an application ends with its tag");
    let seal = |key, header: &[u8], text: &[u8]| sealed(key, header, about, text);
    let true_bytes = seal(&site.reply_key, &header, &true_text);
    let with = |text: &[u8]| seal(&site.reply_key, &header, text);
    let (kind, rest) = data.split_first().unwrap_or((&7, &[]));
    let (bytes, was_sealed) = match kind % 8 {
        0 => (with(&edited(&true_text, rest)), true),
        1 => (with(rest), true),
        2 => (edited(&true_bytes, rest), false),
        3 => (seal(&site.application_key, &header, &edited(&true_text, rest)), false),
        4 => (rest.to_vec(), false),
        5 => {
            let mut changed = edited(&header, rest);
            changed.resize(header.len(), 0);
            (seal(&site.reply_key, &changed, &true_text), true)
        }
        _ if data.is_empty() => (with(&vec![0; 2 * MAX_BYTES]), true),
        _ => (with(&[&[0], rest].concat()), true),
    };
    match site.sealed.open_reply(&bytes) {
        Ok(Some(reply)) => {
            assert!(was_sealed || bytes == true_bytes, "nobody sealed it");
            assert!(bytes.len() <= 2 * MAX_BYTES);
            let nonce = bytes[1..13].try_into().expect("12 bytes");
            assert_eq!(site.opened.reply(&reply, &mut Again(nonce)), bytes, "one encoding");
        }
        Ok(None) => assert_eq!(bytes, REFUSED),
        Err(_refused) => assert_ne!(bytes, true_bytes),
    }
}
