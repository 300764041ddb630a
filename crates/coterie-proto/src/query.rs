//! Direct query (¶39, WIRE section 7): the one use of a community key on the wire, never for user data. Bytes only; when to ask
//! and when to answer is the node's.

use std::net::IpAddr;

use coterie_crypto::{
    Entropy, Refused,
    aead::{Key, Suite},
    hash, same_bytes,
};
use coterie_model::{EpochKey, Reader, Signed, Statement, Unverified, Writer};

use crate::{
    schedule,
    wire::datagram::{ANSWER, QUESTION},
};

/// Bytes of every question, and the most of an answer.
pub const QUESTION_LEN: usize = 1200;
const HEADER: usize = 4;
const NONCE: usize = 12;
const MAC: usize = 16;
const TEXT_AT: usize = HEADER + NONCE;
/// Text of a question: what is left between header, nonce, tag and mac.
const QUESTION_TEXT: usize = QUESTION_LEN - TEXT_AT - 16 - MAC;

/// A question, opened.
#[derive(Debug)]
pub struct Question {
    /// Names it; answered once.
    pub nonce: [u8; NONCE],
    /// Whom the asker looks for.
    pub sought: IpAddr,
    /// The asker's statement, not checked.
    pub statement: Unverified<Statement>,
}

/// An answer, opened.
#[derive(Debug)]
pub struct Answer {
    /// The question's nonce.
    pub question: [u8; NONCE],
    /// The statement of the one sought, not checked.
    pub statement: Unverified<Statement>,
}

/// Makes a question for whoever is `sought`; gives it with its nonce.
pub fn ask(
    key: &EpochKey,
    sought: IpAddr,
    own: &Signed<Statement>,
    entropy: &mut (impl Entropy + ?Sized),
) -> (Vec<u8>, [u8; NONCE]) {
    let mut w = Writer::new();
    w.bytes(&mapped(sought)).counted(own.bytes());
    let mut text = w.into_bytes();
    text.resize(QUESTION_TEXT, 0);
    seal(key, QUESTION, text, entropy)
}

/// Makes the answer to the question of `nonce`.
pub fn answer(
    key: &EpochKey,
    nonce: &[u8; NONCE],
    own: &Signed<Statement>,
    entropy: &mut (impl Entropy + ?Sized),
) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(nonce).counted(own.bytes());
    seal(key, ANSWER, w.into_bytes(), entropy).0
}

/// What a query's mac covers, hashed, and the mac; the datagram has been found long enough.
#[must_use]
pub fn mac_of(datagram: &[u8]) -> Option<([u8; 32], [u8; MAC])> {
    let (covered, mac) = datagram.split_last_chunk::<MAC>()?;
    Some((hash::sha256(&[covered]), *mac))
}

/// Opens a question that verified under `key`.
///
/// # Errors
/// [`Refused`] when it was not sealed under `key` or is malformed.
pub fn open_question(key: &EpochKey, datagram: &[u8]) -> Result<Question, Refused> {
    if datagram.len() != QUESTION_LEN {
        return Err(Refused);
    }
    let (nonce, text) = open(key, datagram)?;
    let mut r = Reader::new(&text);
    let mut parse = || {
        let sought = unmapped(r.array::<16>("sought address")?);
        let statement = Unverified::parse(r.counted(QUESTION_LEN, "statement")?)?;
        let padding = r.take(r.remaining(), "padding")?;
        Ok::<_, coterie_model::Malformed>((sought, statement, padding.iter().all(|b| *b == 0)))
    };
    let (sought, statement, padded) = parse().map_err(|_malformed| Refused)?;
    if padded {
        Ok(Question {
            nonce,
            sought,
            statement,
        })
    } else {
        Err(Refused)
    }
}

/// Opens an answer that verified under `key`.
///
/// # Errors
/// [`Refused`] when it was not sealed under `key` or is malformed.
pub fn open_answer(key: &EpochKey, datagram: &[u8]) -> Result<Answer, Refused> {
    let (_, text) = open(key, datagram)?;
    let mut r = Reader::new(&text);
    let mut parse = || {
        let question = r.array("question")?;
        let statement = Unverified::parse(r.counted(QUESTION_LEN, "statement")?)?;
        Ok::<_, coterie_model::Malformed>((question, statement))
    };
    let (question, statement) = parse().map_err(|_malformed| Refused)?;
    r.finish().map_err(|_malformed| Refused)?;
    Ok(Answer { question, statement })
}

/// True when `datagram`'s mac is of `key`.
#[must_use]
pub fn verifies(key: &EpochKey, datagram: &[u8]) -> bool {
    mac_of(datagram).is_some_and(|(digest, mac)| same_bytes(&schedule::query_mac_key(key).mac(&digest), &mac))
}

fn seal(key: &EpochKey, kind: u8, mut text: Vec<u8>, entropy: &mut (impl Entropy + ?Sized)) -> (Vec<u8>, [u8; NONCE]) {
    let mut nonce = [0; NONCE];
    entropy.fill(&mut nonce);
    let header = [kind, 0, 0, 0];
    let tag = Key::new(Suite::Aes256GcmSiv, &schedule::query_key(key)).seal(nonce, &header, &mut text);
    let mut out = header.to_vec();
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&text);
    out.extend_from_slice(&tag);
    let mac = schedule::query_mac_key(key).mac(&hash::sha256(&[&out]));
    out.extend_from_slice(&mac);
    (out, nonce)
}

fn open(key: &EpochKey, datagram: &[u8]) -> Result<([u8; NONCE], Vec<u8>), Refused> {
    let sealed_end = datagram.len().checked_sub(MAC).ok_or(Refused)?;
    let header = datagram.get(..HEADER).ok_or(Refused)?;
    let nonce: [u8; NONCE] = datagram
        .get(HEADER..TEXT_AT)
        .ok_or(Refused)?
        .try_into()
        .map_err(|_length| Refused)?;
    let mut text = datagram.get(TEXT_AT..sealed_end).ok_or(Refused)?.to_vec();
    let len = Key::new(Suite::Aes256GcmSiv, &schedule::query_key(key))
        .open(nonce, header, &mut text)?
        .len();
    text.truncate(len);
    Ok((nonce, text))
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

fn unmapped(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(bytes.into()).to_canonical()
}
