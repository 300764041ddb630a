//! The machine's application and the server's reply, end to end.

use std::collections::BTreeMap;

use coterie_crypto::{
    Entropy, Refused, Secret,
    aead::{Key, Suite, TAG_LEN},
    dh::{KeyPair, PublicKey},
    hash,
};
use coterie_model::{Malformed, Reader, Writer};

use zeroize::Zeroizing;

use super::Token;
use crate::{
    bundle::{MAX_BYTES, Request},
    file::{Facts, Uuid},
};

const VERSION: u8 = 1;
/// The whole reply to who is refused, whatever the reason: the administrator is told it, the wire is not.
pub const REFUSED: &[u8] = &[VERSION];
/// Version, token, static key, nonce.
const HEADER: usize = 1 + 16 + 32 + 12;
const MAX_LABELS: usize = 32;
const MAX_LABEL: usize = 256;
const MAX_MACS: usize = 16;

/// What re-admits a machine whose template says `return = "ticket"`: 32 bytes that are replaced at each use.
pub type Ticket = Secret<32>;

/// What a machine asks with.
#[derive(Debug)]
pub struct Application {
    /// Name, keys and certificate signing request.
    pub request: Request,
    /// What the machine knows of itself, for matching. A machine's own word: it selects among what the token allows.
    pub facts: Facts,
    /// Of its enrolment before.
    pub ticket: Option<Ticket>,
}

/// What a machine gets.
#[derive(Debug)]
pub struct Reply {
    /// The bundle file.
    pub bundle: Vec<u8>,
    /// For the next time, where the template says so.
    pub ticket: Option<Ticket>,
}

/// An application on its way.
#[derive(Debug)]
pub struct Sealed {
    /// For the server; whoever carries it learns the token's identifier and the static key.
    pub bytes: Vec<u8>,
    key: Secret<32>,
    tag: [u8; TAG_LEN],
}

/// An application that was opened: its maker has the token's secret and the private half of the static key.
#[derive(Debug)]
pub struct Opened {
    /// What is asked.
    pub application: Application,
    key: Secret<32>,
    /// The application's, so that its reply is no other's.
    tag: [u8; TAG_LEN],
}

/// Why an application is not opened. The administrator is told which; whoever asked is told [`REFUSED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// Not the bytes of an application.
    #[error("the application is malformed: {0}")]
    Malformed(Malformed),
    /// Another version.
    #[error("the application has version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// Not made with this token, or not by the owner of the static key.
    #[error("the application was not made with this token by the owner of its static key")]
    Forged,
    /// The request inside is of another static key than the application.
    #[error("the application's request is about another static key")]
    OtherKey,
    /// The request inside.
    #[error("the application's request does not check")]
    Request,
}

impl From<Malformed> for NotOpened {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

/// The token that an application names, before anything of it is checked.
///
/// # Errors
/// [`NotOpened::Malformed`] or [`NotOpened::Version`].
pub fn token_of(bytes: &[u8]) -> Result<[u8; 16], NotOpened> {
    let mut r = Reader::new(bytes);
    let version = r.u8("version")?;
    if version != VERSION {
        return Err(NotOpened::Version(version));
    }
    Ok(r.array("token")?)
}

/// Seals an application to the server of `token`.
///
/// # Errors
/// [`Refused`] when the token's server key is a low-order point.
pub fn seal(
    token: &Token,
    keys: &KeyPair,
    application: &Application,
    entropy: &mut dyn Entropy,
) -> Result<Sealed, Refused> {
    let keys = Keys::derive(token.id, token.secret(), keys, &token.server, keys.public())?;
    let mut nonce = [0; 12];
    entropy.fill(&mut nonce);
    let mut w = Writer::new();
    w.u8(VERSION).bytes(&token.id).bytes(&keys.static_key).bytes(&nonce);
    let mut bytes = w.into_bytes();
    let text = application.to_bytes();
    bytes.reserve_exact(text.len() + TAG_LEN);
    bytes.extend_from_slice(&text);
    let (header, text) = bytes.split_at_mut(HEADER);
    let tag = Key::new(Suite::Aes256GcmSiv, &keys.application).seal(nonce, header, text);
    bytes.extend_from_slice(&tag);
    Ok(Sealed {
        bytes,
        key: keys.reply,
        tag,
    })
}

/// Opens an application that was made with the token of `secret`; `server` is the key pair that the token names.
///
/// # Errors
/// [`NotOpened`].
pub fn open(bytes: &[u8], secret: &Secret<32>, server: &KeyPair) -> Result<Opened, NotOpened> {
    let token = token_of(bytes)?;
    let mut r = Reader::new(&bytes[17..]);
    let static_key: PublicKey = r.array("static key")?;
    let nonce = r.array("nonce")?;
    // A ticket may be in it.
    let mut sealed = Zeroizing::new(r.take(r.remaining(), "application")?.to_vec());
    let tag = *sealed.last_chunk().ok_or(NotOpened::Forged)?;
    let forged = |_refused| NotOpened::Forged;
    let keys = Keys::derive(token, secret, server, &static_key, &static_key).map_err(forged)?;
    let text = Key::new(Suite::Aes256GcmSiv, &keys.application)
        .open(nonce, &bytes[..HEADER], &mut sealed)
        .map_err(forged)?;
    let application = Application::parse(text)?;
    if *application.request.static_key() != static_key {
        return Err(NotOpened::OtherKey);
    }
    Ok(Opened {
        application,
        key: keys.reply,
        tag,
    })
}

impl Opened {
    /// The reply, sealed to who asked.
    pub fn reply(&self, reply: &Reply, entropy: &mut dyn Entropy) -> Vec<u8> {
        let mut nonce = [0; 12];
        entropy.fill(&mut nonce);
        // Room for everything at once: a buffer that grows leaves copies of secrets behind.
        let mut bytes = Vec::with_capacity(13 + 33 + reply.bundle.len() + TAG_LEN);
        bytes.push(VERSION);
        bytes.extend_from_slice(&nonce);
        match &reply.ticket {
            Some(ticket) => {
                bytes.push(1);
                bytes.extend_from_slice(ticket.expose());
            }
            None => bytes.push(0),
        }
        bytes.extend_from_slice(&reply.bundle);
        let (header, text) = bytes.split_at_mut(13);
        let aad = [header, &self.tag[..]].concat();
        let tag = Key::new(Suite::Aes256GcmSiv, &self.key).seal(nonce, &aad, text);
        bytes.extend_from_slice(&tag);
        bytes
    }
}

impl Sealed {
    /// Opens the reply; `None` when the machine was refused.
    ///
    /// # Errors
    /// [`Refused`] when it is no reply of the server to this application.
    pub fn open_reply(&self, bytes: &[u8]) -> Result<Option<Reply>, Refused> {
        if bytes == REFUSED {
            return Ok(None);
        }
        if bytes.len() < 13 + 1 + TAG_LEN || bytes[0] != VERSION || bytes.len() > 2 * MAX_BYTES {
            return Err(Refused);
        }
        let (header, sealed) = bytes.split_at(13);
        let nonce = header[1..].try_into().map_err(|_length| Refused)?;
        let mut text = Zeroizing::new(sealed.to_vec());
        let aad = [header, &self.tag[..]].concat();
        let text: &[u8] = Key::new(Suite::Aes256GcmSiv, &self.key).open(nonce, &aad, &mut text)?;
        let (ticket, bundle) = match text.split_first() {
            Some((0, bundle)) => (None, bundle),
            Some((1, rest)) => {
                let (ticket, bundle) = rest.split_at_checked(32).ok_or(Refused)?;
                (Secret::from_slice(ticket), bundle)
            }
            Some(_) | None => return Err(Refused),
        };
        Ok(Some(Reply {
            bundle: bundle.to_vec(),
            ticket,
        }))
    }
}

/// What both ends derive: from the token's secret, and from a Diffie-Hellman that takes the static key's private half or the
/// server's.
struct Keys {
    static_key: PublicKey,
    application: Secret<32>,
    reply: Secret<32>,
}

impl Keys {
    fn derive(
        token: [u8; 16],
        secret: &Secret<32>,
        own: &KeyPair,
        theirs: &PublicKey,
        static_key: &PublicKey,
    ) -> Result<Self, Refused> {
        let shared = own.agree(theirs)?;
        let key = |label: &[u8]| hash::derive(secret.expose(), shared.expose(), &[label, &token, static_key]);
        Ok(Self {
            static_key: *static_key,
            application: key(b"coterie/1 application"),
            reply: key(b"coterie/1 reply"),
        })
    }
}

impl Application {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new();
        w.counted(self.request.bytes());
        w.counted(cut(self.facts.name.as_deref().unwrap_or_default()));
        // Keys that were cut may be the same then.
        let labels = self.facts.labels.iter().map(|(key, value)| (cut(key), cut(value)));
        let labels: BTreeMap<&[u8], &[u8]> = labels.collect();
        let labels = labels.into_iter().take(MAX_LABELS);
        w.u8(u8::try_from(labels.len()).expect("at most MAX_LABELS"));
        labels.for_each(|(key, value)| {
            w.counted(key).counted(value);
        });
        let macs = self.facts.mac.iter().take(MAX_MACS);
        w.u8(u8::try_from(macs.len()).expect("at most MAX_MACS"));
        macs.for_each(|mac| {
            w.bytes(mac);
        });
        match &self.facts.uuid {
            Some(uuid) => w.u8(1).bytes(&uuid.to_bytes()),
            None => w.u8(0),
        };
        w.u64(self.facts.cpus.unwrap_or(0)).u64(self.facts.memory.unwrap_or(0));
        let front = w.into_bytes();
        let mut bytes = Zeroizing::new(Vec::with_capacity(front.len() + 33));
        bytes.extend_from_slice(&front);
        match &self.ticket {
            Some(ticket) => {
                bytes.push(1);
                bytes.extend_from_slice(ticket.expose());
            }
            None => bytes.push(0),
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self, NotOpened> {
        let mut r = Reader::new(bytes);
        let request = Request::from_bytes(r.counted(usize::from(u16::MAX), "request")?);
        let request = request.map_err(|_error| NotOpened::Request)?;
        let name = Some(text(&mut r, "name")?).filter(|name| !name.is_empty());
        let labels = labels(&mut r)?;
        let mac = (0..bounded(&mut r, MAX_MACS, "MAC addresses")?)
            .map(|_| r.array("MAC address"))
            .collect::<Result<_, Malformed>>()?;
        let uuid = optional(&mut r, "UUID", |r| r.array("UUID").map(Uuid::from_bytes))?;
        let known = |n: u64| Some(n).filter(|n| *n > 0);
        let (cpus, memory) = (known(r.u64("processors")?), known(r.u64("memory")?));
        let ticket = optional(&mut r, "ticket", |r| {
            r.take(32, "ticket")
                .map(|b| Secret::from_slice(b).expect("32 bytes were taken"))
        })?;
        r.finish()?;
        let facts = Facts {
            name,
            labels,
            mac,
            uuid,
            cpus,
            memory,
        };
        Ok(Self { request, facts, ticket })
    }
}

/// As much of a text as is told.
fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(MAX_LABEL)]
}

/// In the order of their keys, none twice.
fn labels(r: &mut Reader<'_>) -> Result<BTreeMap<String, String>, Malformed> {
    let bad = r.malformed("labels");
    let mut labels = BTreeMap::new();
    for _ in 0..bounded(r, MAX_LABELS, "labels")? {
        let (key, value) = (text(r, "label")?, text(r, "label")?);
        if labels.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(bad);
        }
        labels.insert(key, value);
    }
    Ok(labels)
}

fn text(r: &mut Reader<'_>, what: &'static str) -> Result<String, Malformed> {
    let bad = r.malformed(what);
    let bytes = r.counted(MAX_LABEL, what)?;
    String::from_utf8(bytes.to_vec()).map_err(|_utf8| bad)
}

fn bounded(r: &mut Reader<'_>, max: usize, what: &'static str) -> Result<usize, Malformed> {
    let bad = r.malformed(what);
    let n = usize::from(r.u8(what)?);
    if n > max { Err(bad) } else { Ok(n) }
}

fn optional<'a, T>(
    r: &mut Reader<'a>,
    what: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    let bad = r.malformed(what);
    match r.u8(what)? {
        0 => Ok(None),
        1 => read(r).map(Some),
        _ => Err(bad),
    }
}

#[cfg(test)]
mod tests {
    use coterie_crypto::SeededEntropy;
    use coterie_model::{EnclaveId, Name, UnixTime};

    use super::*;
    use crate::{bundle, enrol::DoorAddress};

    struct Case {
        server: KeyPair,
        token: Token,
        keys: bundle::Keys,
        entropy: SeededEntropy,
    }

    fn case() -> Case {
        let mut entropy = SeededEntropy::from_number(1);
        let server = KeyPair::generate(&mut entropy);
        let door = DoorAddress {
            endpoint: "192.0.2.1:4747".parse().unwrap(),
            static_key: [1; 32],
        };
        Case {
            token: Token::draw(
                (EnclaveId([6; 16]), [7; 32]),
                *server.public(),
                UnixTime(9),
                vec![door],
                vec![],
                &mut entropy,
            ),
            keys: bundle::Keys::generate(Name::new("web-7").unwrap(), &mut entropy),
            server,
            entropy,
        }
    }

    fn application(keys: &bundle::Keys) -> Application {
        Application {
            request: Request::new(keys).unwrap(),
            facts: Facts {
                name: Some("web-7".into()),
                labels: [("role".to_owned(), "web".to_owned())].into(),
                mac: vec![[1, 2, 3, 4, 5, 6]],
                uuid: Some(Uuid::from_bytes([9; 16])),
                cpus: Some(4),
                memory: Some(1 << 30),
            },
            ticket: Some(Secret::new([5; 32])),
        }
    }

    #[test]
    fn an_application_and_its_reply_come_through() {
        let mut c = case();
        let asked = application(&c.keys);
        let sealed = seal(&c.token, &c.keys.static_key(), &asked, &mut c.entropy).unwrap();
        assert!(sealed.bytes.len() <= 4096, "{}", sealed.bytes.len());
        assert_eq!(token_of(&sealed.bytes), Ok(c.token.id));
        let opened = open(&sealed.bytes, c.token.secret(), &c.server).unwrap();
        assert_eq!(opened.application.request, asked.request);
        assert_eq!(opened.application.facts, asked.facts);
        assert_eq!(opened.application.ticket.as_ref().unwrap().expose(), &[5; 32]);
        for ticket in [None, Some(Secret::new([6; 32]))] {
            let reply = Reply {
                bundle: b"a bundle".to_vec(),
                ticket: ticket.as_ref().map(Secret::duplicate),
            };
            let bytes = opened.reply(&reply, &mut c.entropy);
            let got = sealed.open_reply(&bytes).unwrap().unwrap();
            assert_eq!(got.bundle, b"a bundle");
            assert_eq!(got.ticket.map(|t| *t.expose()), ticket.map(|t| *t.expose()));
            for at in 0..bytes.len() {
                let mut forged = bytes.clone();
                forged[at] ^= 1;
                assert!(sealed.open_reply(&forged).is_err(), "byte {at}");
            }
        }
        assert!(sealed.open_reply(REFUSED).unwrap().is_none());
        let again = seal(&c.token, &c.keys.static_key(), &asked, &mut c.entropy).unwrap();
        let reply = Reply {
            bundle: b"a bundle".to_vec(),
            ticket: None,
        };
        let older = opened.reply(&reply, &mut c.entropy);
        assert!(again.open_reply(&older).is_err(), "of the application before");
    }

    #[test]
    fn whoever_carries_it_can_neither_change_nor_make_one() {
        let mut c = case();
        let asked = application(&c.keys);
        let sealed = seal(&c.token, &c.keys.static_key(), &asked, &mut c.entropy).unwrap();
        for at in 0..sealed.bytes.len() {
            let mut forged = sealed.bytes.clone();
            forged[at] ^= 1;
            assert!(open(&forged, c.token.secret(), &c.server).is_err(), "byte {at}");
        }
        // A door has the knock key and keys of its own: with those it applies under no token.
        let door = &c.token.doors[0];
        let stolen = Token::from_parts(
            c.token.id,
            c.token.knock_key(&door.static_key).key,
            (c.token.enclave, c.token.root_hash),
            c.token.server,
            c.token.not_after,
            c.token.doors.clone(),
            vec![],
        );
        let own = bundle::Keys::generate(Name::new("web-7").unwrap(), &mut c.entropy);
        let forged = seal(&stolen, &own.static_key(), &application(&own), &mut c.entropy).unwrap();
        assert_eq!(
            open(&forged.bytes, c.token.secret(), &c.server).unwrap_err(),
            NotOpened::Forged
        );
        // Nor does somebody who files a static key of which he has not the private half.
        let others = seal(&c.token, &own.static_key(), &asked, &mut c.entropy).unwrap();
        assert_eq!(
            open(&others.bytes, c.token.secret(), &c.server).unwrap_err(),
            NotOpened::OtherKey
        );
    }
}
