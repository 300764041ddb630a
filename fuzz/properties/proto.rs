//! What must hold of the decoders of the data plane, whatever the bytes. One function for each target of the same name;
//! each panics where its property does not hold. Run by the fuzzer, and by the tests over the committed corpus.

use std::net::{IpAddr, SocketAddr};

use coterie_crypto::{
    Secret, SeededEntropy,
    aead::{Key, Suite},
    hash::{self, MacKey},
};
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, EpochKey, Head, Instant, Manifest, Reader, Revocations, SignedObject,
    Statement, Unverified, Writer,
};
use coterie_proto::{
    handshake::{
        cookie,
        frame::{self, Framed},
        payload::{InitiationPayload, ResponsePayload},
    },
    query, schedule,
    wire::{
        control::Control,
        datagram::{self, Datagram, Step},
        ip,
    },
};

use super::{nodes, visits};

/// A property of some bytes.
pub(crate) type Property = fn(&[u8]);

/// Every target of this crate, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[
    ("datagram", datagram),
    ("frame", frame),
    ("control", control),
    ("packet", packet),
    ("authority", signed::<Authority>),
    ("statement", signed::<Statement>),
    ("manifest", signed::<Manifest>),
    ("revocations", signed::<Revocations>),
    ("head", signed::<Head>),
    ("directory_entry", directory_entry),
    ("initiation_payload", initiation_payload),
    ("response_payload", response_payload),
    ("question", question),
    ("answer", answer),
    ("cookie", cookie),
    ("nodes", nodes::nodes),
    ("visits", visits::visits),
];

/// A header says what the bytes say, and a datagram of its type may have its length.
pub(crate) fn datagram(data: &[u8]) {
    let Ok(parsed) = datagram::parse(data) else { return };
    let index = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().expect("4 bytes"));
    let (kind, lengths) = match parsed {
        Datagram::Initiation { sender } => {
            assert!(sender == index(4) && sender != 0 && data[1..4] == [0; 3]);
            (1, 168..=1232)
        }
        Datagram::Response { sender, receiver } => {
            assert!(sender == index(4) && sender != 0 && receiver == index(8) && data[1..4] == [0; 3]);
            (2, 108..=1232)
        }
        Datagram::Cookie { receiver } => {
            assert!(receiver == index(4) && data[1..4] == [0; 3]);
            (3, 52..=52)
        }
        Datagram::Provisional { step, receiver } => {
            assert_eq!(datagram::provisional_header(step, receiver), data[..8]);
            assert!(matches!(step, Step::Offer | Step::Answer | Step::Confirm));
            (4, 24..=1232)
        }
        Datagram::Sealed(header) => {
            assert_eq!(header.to_bytes(), data[..16]);
            assert!(header.counter < 1 << 48);
            (5, 33..=65_535)
        }
        Datagram::Question => (6, 64..=1232),
        Datagram::Answer => (7, 64..=1232),
    };
    assert!(data[0] == kind && lengths.contains(&data.len()));
}

/// A frame is cut at its macs, and only one that is long enough; the one who has key and cookie makes the same frame.
pub(crate) fn frame(data: &[u8]) {
    let framed = Framed::cut(data);
    assert_eq!(framed.is_some(), data.len() >= 32);
    let Some(framed) = framed else { return };
    let whole = [framed.before_mac1, framed.mac1, framed.mac2].concat();
    assert!(whole == data && framed.before_mac2.len() + 16 == data.len());
    assert_eq!(framed.digest(), hash::sha256(&[framed.before_mac1]));
    let key = MacKey::new(&[7; 32]);
    for cookie in [None, Some(framed.mac2)] {
        let mut made = framed.before_mac1.to_vec();
        let mac1 = frame::append_macs(&mut made, &key, cookie);
        let again = Framed::cut(&made).expect("two macs were appended");
        assert!(again.before_mac1 == framed.before_mac1 && *again.mac1 == mac1);
        assert_eq!(mac1, key.mac(&framed.digest()));
        let mac2 = cookie.map_or([0; 16], |c| MacKey::new(c).mac(&hash::sha256(&[again.before_mac2])));
        assert_eq!(*again.mac2, mac2);
    }
}

/// A frame has one encoding.
pub(crate) fn control(data: &[u8]) {
    if let Ok(frame) = Control::parse(data) {
        assert_eq!(frame.to_bytes(), data);
        if let Control::Difference { bytes, .. } | Control::Carry { bytes, .. } = frame {
            assert!((1..=1024).contains(&bytes.len()));
        }
    }
}

/// A packet is no longer than its buffer; an error about one is a well-formed packet to its sender, and causes none.
pub(crate) fn packet(data: &[u8]) {
    let Ok(parsed) = ip::parse(data) else {
        assert_eq!(ip::refusal(data, ip::Refusal::Prohibited), None);
        return;
    };
    assert!(parsed.len <= data.len());
    let v4 = data[0] >> 4 == 4;
    assert!(parsed.source.is_ipv4() == v4 && parsed.destination.is_ipv4() == v4);
    for refusal in [ip::Refusal::Prohibited, ip::Refusal::Unreachable] {
        let Some(error) = ip::refusal(data, refusal) else {
            continue;
        };
        let about = ip::parse(&error).expect("an ICMP error is a packet");
        assert_eq!(
            (about.len, about.destination, about.source),
            (error.len(), parsed.source, parsed.destination)
        );
        assert!(error.len() <= if v4 { 576 } else { 1280 });
        assert_eq!(ip::refusal(&error, refusal), None, "no error about an error");
        let header = if v4 { 20 } else { 40 };
        assert!(
            data[..parsed.len].starts_with(&error[header + 8..]),
            "quotes the packet"
        );
        assert!(!ip::is_not_unicast(parsed.source) && !ip::is_not_unicast(parsed.destination));
        let pseudo = if v4 { vec![] } else { pseudo_header(&error) };
        assert_eq!(sum(&[pseudo, error[header..].to_vec()].concat()), 0xffff);
        assert!(!v4 || sum(&error[..20]) == 0xffff);
    }
}

fn pseudo_header(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet[8..40].to_vec();
    bytes.extend_from_slice(&[0, 0, packet[4], packet[5], 0, 0, 0, 58]);
    bytes
}

/// The one's complement sum of RFC 1071.
fn sum(bytes: &[u8]) -> u32 {
    let total: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let folded = (total & 0xffff) + (total >> 16);
    (folded & 0xffff) + (folded >> 16)
}

/// A signed object has one encoding, and the bytes that are verified are those that were parsed.
pub(crate) fn signed<T: SignedObject>(data: &[u8]) {
    let Ok(parsed) = Unverified::<T>::parse(data) else {
        return;
    };
    let mut w = Writer::new();
    parsed.claimed().encode(&mut w);
    let body = w.into_bytes();
    assert!(parsed.bytes() == data && body.len() + 64 == data.len() && data.starts_with(&body));
    let mut r = Reader::new(data);
    let taken = Unverified::<T>::take(&mut r).expect("what parses can be taken from the front");
    assert!(r.remaining() == 0 && taken.bytes() == data);
}

/// An entry has one encoding, and its lists are bounded.
pub(crate) fn directory_entry(data: &[u8]) {
    let mut r = Reader::new(data);
    let Ok(entry) = DirectoryEntry::decode(&mut r) else {
        return;
    };
    let mut w = Writer::new();
    super::entry::write(&entry, &mut w);
    assert_eq!(w.into_bytes(), data[..data.len() - r.remaining()]);
}

/// Message 1's payload has one encoding.
pub(crate) fn initiation_payload(data: &[u8]) {
    if let Ok(payload) = InitiationPayload::parse(data) {
        assert_eq!(payload.to_bytes(), data);
        assert!((1..=16).contains(&payload.lanes) && (1..8).contains(&payload.suites.bits()));
    }
}

/// Message 2's payload has one encoding.
pub(crate) fn response_payload(data: &[u8]) {
    if let Ok(payload) = ResponsePayload::parse(data) {
        assert_eq!(payload.to_bytes(), data);
        assert!((1..=16).contains(&payload.lanes));
    }
}

/// A question opens only if it was sealed under the key, and then says what was sealed.
pub(crate) fn question(data: &[u8]) {
    let key = key();
    assert!(query::open_question(&key, data).is_err(), "nobody sealed it");
    let mut text = data.to_vec();
    text.resize(QUESTION_TEXT, 0);
    let sealed = seal_query(&key, 6, &text);
    assert_eq!(sealed.len(), query::QUESTION_LEN);
    assert!(query::verifies(&key, &sealed));
    if let Ok(question) = query::open_question(&key, &sealed) {
        assert_eq!(question.nonce, NONCE);
        let mut w = Writer::new();
        let sought: SocketAddr = (question.sought, 0).into();
        let sixteen = match sought.ip() {
            IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
            IpAddr::V6(a) => a.octets(),
        };
        w.bytes(&sixteen).counted(question.statement.bytes());
        let mut again = w.into_bytes();
        again.resize(QUESTION_TEXT, 0);
        assert_eq!(again, text);
    }
    assert!(query::open_question(&key, &sealed[1..]).is_err());
}

/// An answer opens only if it was sealed under the key, and then says what was sealed.
pub(crate) fn answer(data: &[u8]) {
    let key = key();
    assert!(query::open_answer(&key, data).is_err(), "nobody sealed it");
    let text = &data[..data.len().min(QUESTION_TEXT)];
    let sealed = seal_query(&key, 7, text);
    assert!(sealed.len() <= query::QUESTION_LEN && query::verifies(&key, &sealed));
    if let Ok(answer) = query::open_answer(&key, &sealed) {
        let mut w = Writer::new();
        w.bytes(&answer.question).counted(answer.statement.bytes());
        assert_eq!(w.into_bytes(), text);
    }
}

/// A cookie opens only if it was sealed for this very initiation, and then has 16 bytes.
pub(crate) fn cookie(data: &[u8]) {
    let (key, responder, mac1) = (key(), [3; 32], [4; 16]);
    assert!(cookie::open(&key, &responder, &mac1, data).is_err(), "nobody sealed it");
    let mut sealed = data.to_vec();
    let tag = Key::new(Suite::Aes256GcmSiv, &schedule::cookie_key(&key, &responder)).seal(NONCE, &mac1, &mut sealed);
    let datagram = [&[3, 0, 0, 0, 0, 0, 0, 9][..], &NONCE, &sealed, &tag].concat();
    let opened = cookie::open(&key, &responder, &mac1, &datagram);
    assert_eq!(opened.is_ok(), data.len() == 16);
    assert!(opened.is_err() || opened == Ok(data.try_into().expect("16 bytes")));
    assert!(cookie::open(&key, &responder, &[5; 16], &datagram).is_err());

    // What a jar gives for an address opens, and is accepted from that address alone, for two lives of its secret.
    let mut entropy = SeededEntropy::from_number(1);
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    let mut jar = cookie::Jar::new(true, at(0), &mut entropy);
    let port = u16::try_from(data.len() % 60_000).expect("below 60,000");
    let here: SocketAddr = (data.first().map_or([192, 0, 2, 1], |b| [192, 0, 2, *b]), port).into();
    let there: SocketAddr = ([0xfd00, 0, 0, 0, 0, 0, 0, 1], port).into();
    let asked = jar.ask(&key, &responder, (7, &mac1), here, at(0), &mut entropy);
    let given = cookie::open(&key, &responder, &mac1, &asked).expect("sealed for it");
    let mac2 = MacKey::new(&given).mac(&hash::sha256(&[data]));
    assert!(
        jar.accepts(data, &mac2, here, at(1), &mut entropy) && !jar.accepts(data, &mac2, there, at(1), &mut entropy)
    );
    assert!(
        jar.accepts(data, &mac2, here, at(121), &mut entropy) && !jar.accepts(data, &mac2, here, at(300), &mut entropy)
    );
}

const NONCE: [u8; 12] = [8; 12];
/// What is left of a question between header, nonce, tag and mac.
const QUESTION_TEXT: usize = query::QUESTION_LEN - 4 - 12 - 16 - 16;

fn key() -> EpochKey {
    EpochKey {
        tag: CommunityTag([1; 16]),
        epoch: 1,
        key: Secret::new([2; 32]),
    }
}

fn seal_query(key: &EpochKey, kind: u8, text: &[u8]) -> Vec<u8> {
    let header = [kind, 0, 0, 0];
    let mut sealed = text.to_vec();
    let tag = Key::new(Suite::Aes256GcmSiv, &schedule::query_key(key)).seal(NONCE, &header, &mut sealed);
    let mut out = [&header[..], &NONCE, &sealed, &tag].concat();
    let mac = schedule::query_mac_key(key).mac(&hash::sha256(&[&out]));
    out.extend_from_slice(&mac);
    out
}
