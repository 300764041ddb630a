//! What must hold of the messages by which nodes follow their enclave.

use std::sync::LazyLock;

use coterie_control::follow::{
    Message, ViewPiece,
    message::{self, MAX_DESTINATION, MAX_KNOCKS, PIECE},
};
use coterie_crypto::{
    Secret,
    sign::{SigningKey, VerifyingKey},
};
use coterie_model::{DirectoryEntry, Signed, SignedObject, Statement, Unverified, Writer};

use super::{control::Property, entry};

/// Every target of this file, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[("message", message)];

/// Of whoever signed what is signed in the corpus.
static KEY: LazyLock<VerifyingKey> = LazyLock::new(|| SigningKey::from_seed(Secret::new([9; 32])).verifying_key());

/// A message has one encoding, which is the server's where what is signed in it verifies, and its lists are bounded.
pub(crate) fn message(data: &[u8]) {
    match Message::parse(data) {
        Ok(parsed) => {
            assert_eq!(encoded(&parsed), data);
            if let Some(made) = made(&parsed) {
                assert_eq!(made, data);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty() && error.offset <= data.len()),
    }
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut w = Writer::new();
    match message {
        Message::Pulse(head) => {
            w.u8(1).counted(head.bytes());
        }
        Message::Revocations(list) => {
            w.u8(2).counted(list.bytes());
        }
        Message::Manifests(tag, manifests) => {
            assert!(manifests.len() <= 8);
            w.u8(3)
                .bytes(&tag.0)
                .u8(u8::try_from(manifests.len()).expect("bounded above"));
            for manifest in manifests {
                w.counted(manifest.bytes());
            }
        }
        Message::View(piece) => view(piece, &mut w),
        Message::Renew => return body(&message::renew()),
        Message::Knocks(all) => {
            assert!(all.len() <= MAX_KNOCKS && all.iter().all(|knock| knock.key.epoch == 1));
            return body(&message::knocks(all));
        }
        Message::Mark(revision) => return body(&message::mark(*revision)),
        Message::Explain { id, destination } => {
            assert!(destination.len() <= MAX_DESTINATION);
            return body(&message::explain(*id, destination));
        }
    }
    w.into_bytes()
}

/// What the server makes of the same; `None` where something is not signed, or the server would say it in another way.
fn made(message: &Message) -> Option<Vec<u8>> {
    match message {
        Message::Pulse(head) => Some(body(&message::pulse(&signed(head)?))),
        Message::Revocations(list) => Some(body(&message::revocations(&signed(list)?))),
        Message::Manifests(tag, all) => {
            let all: Vec<_> = all.iter().map(signed).collect::<Option<_>>()?;
            Some(body(&message::manifests(*tag, all.iter())))
        }
        Message::View(piece) => {
            let entries: Vec<_> = piece.entries.iter().map(entry_of).collect::<Option<_>>()?;
            let flags = (piece.begins, piece.ends, piece.gone.is_empty());
            let all = match (flags, entries.is_empty()) {
                ((true, true, true), _) => message::whole(piece.tag, &entries),
                ((false, false, true), false) | ((false, false, false), true) => {
                    message::change(piece.tag, &entries, &piece.gone)
                }
                _ => return None,
            };
            assert_eq!(all.len(), 1, "no longer than one");
            all.first().map(|framed| body(framed))
        }
        Message::Renew | Message::Knocks(_) | Message::Mark(_) | Message::Explain { .. } => None,
    }
}

fn signed<T: SignedObject>(object: &Unverified<T>) -> Option<Signed<T>> {
    Unverified::<T>::parse(object.bytes()).ok()?.verify(&KEY).ok()
}

fn entry_of(entry: &DirectoryEntry<Unverified<Statement>>) -> Option<DirectoryEntry> {
    Some(DirectoryEntry {
        name: entry.name.clone(),
        communities: entry.communities.clone(),
        addresses: entry.addresses.clone(),
        endpoints: entry.endpoints.clone(),
        statements: entry.statements.iter().map(signed).collect::<Option<_>>()?,
    })
}

fn view(piece: &ViewPiece, w: &mut Writer) {
    assert!(piece.entries.len() <= PIECE && piece.gone.len() <= 1000);
    let flags = u8::from(piece.begins) | u8::from(piece.ends) << 1;
    let count = |n: usize| u16::try_from(n).expect("bounded above");
    w.u8(4).bytes(&piece.tag.0).u8(flags).u16(count(piece.entries.len()));
    piece.entries.iter().for_each(|e| entry::write(e, w));
    w.u16(count(piece.gone.len()));
    for name in &piece.gone {
        w.name(name);
    }
}

/// A message without its length field, which is right.
fn body(framed: &[u8]) -> Vec<u8> {
    let (length, body) = framed.split_first_chunk().expect("a length field");
    assert_eq!(usize::try_from(u32::from_be_bytes(*length)), Ok(body.len()));
    body.to_vec()
}
