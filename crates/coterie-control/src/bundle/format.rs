//! The bundle's bytes (BUNDLE section 3).

use core::net::SocketAddr;

use coterie_crypto::{
    aead::Suite,
    dh::PublicKey,
    sign::{SIGNATURE_LEN, SigningKey, VerifyingKey},
};
use coterie_model::{
    Authority, Malformed, MemberId, Name, Prefix, Reader, Serial, UnixTime, Unverified, Writer, signed::MAX_REVOCATIONS,
};

use super::{
    error::BundleError,
    succession::{MAX_SUCCESSIONS, Succession},
    view::SealedView,
};
use crate::file::Return;

/// What the bundle's signature is bound to.
pub(crate) const SIGNATURE_LABEL: &str = "coterie/1 bundle";
/// The version that this program reads and writes.
pub(crate) const VERSION: u8 = 1;

const MAX_CERTIFICATE: usize = 16 * 1024;
const MAX_STATEMENT: usize = 1232;
const MAX_COUNTED: usize = 64;
const MAX_MANIFESTS: usize = 4 * 64;
const MAX_LISTS: usize = 128 + 56 * MAX_REVOCATIONS;
const MAX_POOLS: usize = 16;
const MAX_GATEWAYS: usize = 16;
/// Most addresses of an enclave's server in a bundle or token.
pub const MAX_SERVERS: usize = 8;
const MAX_EXCLUSIONS: usize = 512;

/// What tells a member that membership goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freshness {
    /// Statements alone, until they end: an enclave without a server.
    Offline,
    /// Heads of a server, every 10 seconds.
    Heads,
}

/// What a member's template says about how it behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSettings {
    /// The template's name.
    pub name: Name,
    /// Whether nothing leaves in the clear on the outside interface.
    pub lockdown: bool,
    /// Whether running members may be snapshot and forked.
    pub forkable: bool,
    /// Whether the member may change its outside address while sessions live.
    pub roaming: bool,
    /// What admits the member again after reboot, restore or fork.
    pub returning: Return,
    /// Cipher suites that it may use, at least one.
    pub suites: Vec<Suite>,
    /// The one that it is to ask for; `None` leaves it to the node, which knows its CPU.
    pub preferred: Option<Suite>,
    /// Members that it does not want to hear it, by name.
    pub exclude: Vec<Name>,
}

/// The front of a bundle: what can be told before anything was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    /// The enclave's root.
    pub root: VerifyingKey,
    /// Who may sign for the enclave, by the root.
    pub authority: Unverified<Authority>,
    /// What leads from earlier roots to this one, the oldest first, at most [`MAX_SUCCESSIONS`].
    pub successions: Vec<Unverified<Succession>>,
    /// The member's name.
    pub name: Name,
    /// Rises with each bundle of the member.
    pub serial: Serial,
    /// When it was issued.
    pub issued: UnixTime,
    /// When the lease ends.
    pub not_after: UnixTime,
}

/// The rest. Signed objects are bytes here: they are parsed and verified by who opens the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The member: this enrolment.
    pub member: MemberId,
    /// The machine's static key.
    pub static_key: PublicKey,
    /// What tells that membership goes on.
    pub freshness: Freshness,
    /// UDP port of the outside socket.
    pub port: u16,
    /// Largest inside packet in bytes; `None` is written as 0.
    pub mtu: Option<u16>,
    /// Gateways, best first, at most 16.
    pub gateways: Vec<SocketAddr>,
    /// Where the enclave's server is (TCP), at most [`MAX_SERVERS`].
    pub servers: Vec<SocketAddr>,
    /// Networks that inside addresses come from, at most 16.
    pub pools: Vec<Prefix>,
    /// How the member behaves.
    pub template: TemplateSettings,
    /// The root's certificate (DER).
    pub root_certificate: Vec<u8>,
    /// The certificate with the wrapped keys (DER).
    pub bundle_certificate: Vec<u8>,
    /// The certificate for mutual TLS (DER).
    pub identity_certificate: Vec<u8>,
    /// The member's statements, at most 64.
    pub statements: Vec<Vec<u8>>,
    /// Manifests of its communities, at most 256.
    pub manifests: Vec<Vec<u8>>,
    /// Who is refused; `None` is written as no bytes.
    pub revocations: Option<Vec<u8>>,
    /// The newest head; `None` is written as no bytes.
    pub head: Option<Vec<u8>>,
    /// One sealed view for each community, at most 64.
    pub views: Vec<SealedView>,
}

/// The whole bundle, signed.
pub(crate) fn encode(front: &Front, content: &Content, statement_key: &SigningKey) -> Vec<u8> {
    let mut bytes = encode_body(front, content);
    bytes.extend_from_slice(&statement_key.sign(SIGNATURE_LABEL, &bytes));
    bytes
}

/// What is signed: all but the signature.
///
/// # Panics
/// When a list or a byte string is longer than its length field can say: a caller's error.
#[must_use]
pub fn encode_body(front: &Front, content: &Content) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(&front.root.0).counted(front.authority.bytes());
    count(&mut w, front.successions.len());
    front.successions.iter().for_each(|link| {
        w.counted(link.bytes());
    });
    w.name(&front.name);
    w.u64(front.serial).u64(front.issued.0).u64(front.not_after.0);
    encode_content(content, &mut w);
    let rest = w.into_bytes();

    let mut w = Writer::new();
    let length = u32::try_from(1 + 4 + rest.len() + SIGNATURE_LEN).expect("a bundle is bounded where it is made");
    w.u8(VERSION).u32(length).bytes(&rest);
    w.into_bytes()
}

fn encode_content(c: &Content, w: &mut Writer) {
    w.bytes(&c.member.0).bytes(&c.static_key);
    w.u8(match c.freshness {
        Freshness::Offline => 0,
        Freshness::Heads => 1,
    });
    w.u16(c.port).u16(c.mtu.unwrap_or(0));
    count(w, c.gateways.len());
    c.gateways.iter().for_each(|g| {
        w.endpoint(g);
    });
    count(w, c.servers.len());
    c.servers.iter().for_each(|s| {
        w.endpoint(s);
    });
    count(w, c.pools.len());
    c.pools.iter().for_each(|p| {
        w.prefix(p);
    });
    encode_template(&c.template, w);
    w.counted(&c.root_certificate)
        .counted(&c.bundle_certificate)
        .counted(&c.identity_certificate);
    count(w, c.statements.len());
    c.statements.iter().for_each(|s| {
        w.counted(s);
    });
    w.u16(u16::try_from(c.manifests.len()).expect("at most 256 manifests, checked where a bundle is made"));
    c.manifests.iter().for_each(|m| {
        w.counted(m);
    });
    w.counted(c.revocations.as_deref().unwrap_or_default())
        .counted(c.head.as_deref().unwrap_or_default());
    count(w, c.views.len());
    for view in &c.views {
        w.bytes(&view.label)
            .u64(view.epoch)
            .bytes(&view.query)
            .bytes(&view.nonce);
        w.u32(u32::try_from(view.sealed.len()).expect("a bundle is bounded where it is made"))
            .bytes(&view.sealed);
    }
}

fn encode_template(t: &TemplateSettings, w: &mut Writer) {
    w.name(&t.name)
        .u8(u8::from(t.lockdown))
        .u8(u8::from(t.forkable))
        .u8(u8::from(t.roaming));
    w.u8(match t.returning {
        Return::None => 0,
        Return::Source => 1,
        Return::Ticket => 2,
        Return::Tpm => 3,
    });
    w.u8(t.suites.iter().fold(0, |mask, suite| mask | suite.bit()))
        .u8(t.preferred.map_or(0, Suite::bit));
    w.u16(u16::try_from(t.exclude.len()).expect("at most 512 exclusions, checked where the enclave file is read"));
    t.exclude.iter().for_each(|name| {
        w.name(name);
    });
}

fn count(w: &mut Writer, n: usize) {
    w.u8(u8::try_from(n).expect("lists of a bundle are bounded where it is made"));
}

/// Why the bytes are no bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Version(u8),
    /// Fewer or more bytes than the bundle says that it has.
    Length {
        stated: usize,
        actual: usize,
    },
    Malformed(Malformed),
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Reads the front.
pub(crate) fn decode_front(bytes: &[u8]) -> Result<Front, Fault> {
    let mut r = Reader::new(bytes);
    decode_front_from(&mut r, bytes.len())
}

fn decode_front_from(r: &mut Reader<'_>, actual: usize) -> Result<Front, Fault> {
    let version = r.u8("version")?;
    if version != VERSION {
        return Err(Fault::Version(version));
    }
    let stated = usize::try_from(r.u32("length")?).unwrap_or(usize::MAX);
    if stated != actual {
        return Err(Fault::Length { stated, actual });
    }
    let root = VerifyingKey(r.array("root key")?);
    let bad = r.malformed("authority");
    let authority = Unverified::parse(r.counted(MAX_STATEMENT, "authority")?).map_err(|_inner| bad)?;
    let successions = few(r, MAX_SUCCESSIONS, "successions", |r| {
        let bad = r.malformed("succession");
        Unverified::parse(r.counted(MAX_STATEMENT, "succession")?).map_err(|_inner| bad)
    })?;
    Ok(Front {
        root,
        authority,
        successions,
        name: r.name("member name")?,
        serial: r.u64("serial")?,
        issued: UnixTime(r.u64("issue time")?),
        not_after: UnixTime(r.u64("not-after")?),
    })
}

/// Body and signature of the whole.
pub(crate) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8; SIGNATURE_LEN])> {
    bytes.split_last_chunk()
}

/// Where fields start, for messages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offsets {
    pub(crate) serial: usize,
    pub(crate) not_after: usize,
    pub(crate) static_key: usize,
    pub(crate) root_certificate: usize,
    pub(crate) bundle_certificate: usize,
    pub(crate) identity_certificate: usize,
}

/// Reads a whole bundle of whose signature nothing is known.
///
/// # Errors
/// [`BundleError`] when it has another version or length, or is malformed.
pub fn decode_whole(bytes: &[u8]) -> Result<(Front, Content), BundleError> {
    let front = decode_front(bytes)?;
    let (content, _) = decode_content(bytes)?;
    Ok((front, content))
}

/// Reads the content, behind the front.
pub(crate) fn decode_content(bytes: &[u8]) -> Result<(Content, Offsets), Fault> {
    let mut r = Reader::new(bytes);
    decode_front_from(&mut r, bytes.len())?;
    let content_at = bytes.len() - r.remaining();
    let mut at = Offsets {
        serial: content_at - 24,
        not_after: content_at - 8,
        static_key: content_at + 16,
        ..Offsets::default()
    };
    let certificate = |r: &mut Reader<'_>, what, at: &mut usize| {
        *at = bytes.len() - r.remaining();
        r.counted(MAX_CERTIFICATE, what).map(Vec::from)
    };
    let content = Content {
        member: MemberId(r.array("member")?),
        static_key: r.array("static key")?,
        freshness: {
            let bad = r.malformed("freshness");
            match r.u8("freshness")? {
                0 => Freshness::Offline,
                1 => Freshness::Heads,
                _ => return Err(bad.into()),
            }
        },
        port: r.u16("port")?,
        mtu: Some(r.u16("inside MTU")?).filter(|mtu| *mtu != 0),
        gateways: few(&mut r, MAX_GATEWAYS, "gateways", |r| r.endpoint("gateway"))?,
        servers: few(&mut r, MAX_SERVERS, "servers", |r| r.endpoint("server"))?,
        pools: few(&mut r, MAX_POOLS, "pools", |r| r.prefix("pool"))?,
        template: decode_template(&mut r)?,
        root_certificate: certificate(&mut r, "root certificate", &mut at.root_certificate)?,
        bundle_certificate: certificate(&mut r, "bundle certificate", &mut at.bundle_certificate)?,
        identity_certificate: certificate(&mut r, "identity certificate", &mut at.identity_certificate)?,
        statements: few(&mut r, MAX_COUNTED, "statements", |r| {
            r.counted(MAX_STATEMENT, "statement").map(Vec::from)
        })?,
        manifests: many(&mut r, MAX_MANIFESTS, "manifests", |r| {
            r.counted(MAX_STATEMENT, "manifest").map(Vec::from)
        })?,
        revocations: Some(r.counted(MAX_LISTS, "revocations")?.to_vec()).filter(|b| !b.is_empty()),
        head: Some(r.counted(MAX_STATEMENT, "head")?.to_vec()).filter(|b| !b.is_empty()),
        views: few(&mut r, MAX_COUNTED, "views", decode_view)?,
    };
    r.take(SIGNATURE_LEN, "signature")?;
    r.finish()?;
    Ok((content, at))
}

fn decode_template(r: &mut Reader<'_>) -> Result<TemplateSettings, Malformed> {
    Ok(TemplateSettings {
        name: r.name("template name")?,
        lockdown: flag(r, "lockdown")?,
        forkable: flag(r, "forkable")?,
        roaming: flag(r, "roaming")?,
        returning: {
            let bad = r.malformed("return");
            match r.u8("return")? {
                0 => Return::None,
                1 => Return::Source,
                2 => Return::Ticket,
                3 => Return::Tpm,
                _ => return Err(bad),
            }
        },
        suites: {
            let bad = r.malformed("suites");
            let mask = r.u8("suites")?;
            if mask == 0 || mask > 7 {
                return Err(bad);
            }
            Suite::ALL.into_iter().filter(|suite| mask & suite.bit() != 0).collect()
        },
        preferred: {
            let bad = r.malformed("preferred suite");
            match r.u8("preferred suite")? {
                0 => None,
                bit => Some(Suite::from_bit(bit).ok_or(bad)?),
            }
        },
        exclude: many(r, MAX_EXCLUSIONS, "exclusions", |r| r.name("excluded member"))?,
    })
}

fn decode_view(r: &mut Reader<'_>) -> Result<SealedView, Malformed> {
    Ok(SealedView {
        label: r.array("label")?,
        epoch: r.u64("epoch of a view")?,
        query: r.array("wrapped query key")?,
        nonce: r.array("nonce of a view")?,
        sealed: {
            let bad = r.malformed("view");
            let length = usize::try_from(r.u32("view")?).map_err(|_large| bad)?;
            r.take(length, "view")?.to_vec()
        },
    })
}

fn flag(r: &mut Reader<'_>, what: &'static str) -> Result<bool, Malformed> {
    let bad = r.malformed(what);
    match r.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(bad),
    }
}

fn few<'a, T>(
    r: &mut Reader<'a>,
    max: usize,
    what: &'static str,
    one: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let bad = r.malformed(what);
    let count = usize::from(r.u8(what)?);
    repeat(r, count, max, bad, one)
}

fn many<'a, T>(
    r: &mut Reader<'a>,
    max: usize,
    what: &'static str,
    one: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let bad = r.malformed(what);
    let count = usize::from(r.u16(what)?);
    repeat(r, count, max, bad, one)
}

fn repeat<'a, T>(
    r: &mut Reader<'a>,
    count: usize,
    max: usize,
    bad: Malformed,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    if count > max {
        return Err(bad);
    }
    (0..count).map(|_| one(r)).collect()
}

#[cfg(test)]
mod tests {
    use coterie_crypto::Secret;
    use coterie_model::{EnclaveId, Signed};

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn whole() -> (Front, Content, SigningKey) {
        let key = SigningKey::from_seed(Secret::new([1; 32]));
        let authority = Authority {
            era: 1,
            enclave: EnclaveId([2; 16]),
            name: name("shop"),
            statement_key: key.verifying_key(),
            not_after: UnixTime(9),
        };
        let succession = Succession {
            enclave: EnclaveId([2; 16]),
            from: key.verifying_key(),
            to: key.verifying_key(),
            time: UnixTime(3),
        };
        let front = Front {
            root: key.verifying_key(),
            authority: Unverified::parse(Signed::sign(authority, &key).bytes()).unwrap(),
            successions: vec![Unverified::parse(Signed::sign(succession, &key).bytes()).unwrap()],
            name: name("web-1"),
            serial: 3,
            issued: UnixTime(4),
            not_after: UnixTime(5),
        };
        let content = Content {
            member: MemberId([6; 16]),
            static_key: [7; 32],
            freshness: Freshness::Heads,
            port: 4747,
            mtu: Some(1400),
            gateways: vec!["192.0.2.1:4747".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()],
            servers: vec!["10.0.0.5:4750".parse().unwrap()],
            pools: vec![Prefix::new("10.0.0.0".parse().unwrap(), 8).unwrap()],
            template: TemplateSettings {
                name: name("web"),
                lockdown: true,
                forkable: false,
                roaming: true,
                returning: Return::Ticket,
                suites: vec![Suite::Aes256Gcm, Suite::Aes256GcmSiv],
                preferred: Some(Suite::Aes256GcmSiv),
                exclude: vec![name("spy")],
            },
            root_certificate: vec![8; 300],
            bundle_certificate: vec![9; 2000],
            identity_certificate: vec![10; 500],
            statements: vec![vec![11; 200], vec![12; 200]],
            manifests: vec![vec![13; 150]],
            revocations: Some(vec![14; 100]),
            head: Some(vec![15; 100]),
            views: vec![SealedView {
                label: [16; 16],
                epoch: 17,
                query: [18; 40],
                nonce: [19; 12],
                sealed: vec![20; 99],
            }],
        };
        (front, content, key)
    }

    #[test]
    fn a_bundle_comes_back_field_by_field() {
        let (front, content, key) = whole();
        let bytes = encode(&front, &content, &key);
        assert_eq!(decode_front(&bytes).unwrap(), front);
        let (back, at) = decode_content(&bytes).unwrap();
        assert_eq!(back, content);
        let field = |at: usize, length: usize| &bytes[at..at + length];
        assert_eq!(field(at.serial, 8), 3_u64.to_be_bytes());
        assert_eq!(field(at.not_after, 8), 5_u64.to_be_bytes());
        assert_eq!(field(at.static_key, 32), [7; 32]);
        assert_eq!(field(at.root_certificate + 2, 300), [8; 300]);
        assert_eq!(field(at.bundle_certificate + 2, 2000), [9; 2000]);
        assert_eq!(field(at.identity_certificate + 2, 500), [10; 500]);
    }

    #[test]
    fn cut_and_extended_bundles_are_refused_even_where_their_length_is_mended() {
        let (front, content, key) = whole();
        let bytes = encode(&front, &content, &key);
        for length in 5..bytes.len() + 3 {
            let mut other = bytes.clone();
            other.resize(length, 0);
            assert_eq!(decode_content(&other).is_ok(), length == bytes.len());
            other[1..5].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            assert_eq!(decode_content(&other).is_ok(), length == bytes.len(), "{length} bytes");
        }
    }
}
