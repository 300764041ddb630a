//! What must hold of the messages by which nodes follow their enclave.

use coterie_control::follow::{
    Message, ViewPiece,
    message::{self, MAX_KNOCKS, PIECE},
};
use coterie_model::Writer;

use super::{control::Property, entry};

/// Every target of this file, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[("message", message)];

/// A message has one encoding, and its lists are bounded.
pub(crate) fn message(data: &[u8]) {
    match Message::parse(data) {
        Ok(parsed) => assert_eq!(encoded(&parsed), data),
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
        Message::Renew => return body(message::renew()),
        Message::Knocks(all) => {
            assert!(all.len() <= MAX_KNOCKS && all.iter().all(|knock| knock.key.epoch == 1));
            return body(message::knocks(all));
        }
        Message::Mark(revision) => return body(message::mark(*revision)),
    }
    w.into_bytes()
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
fn body(framed: Vec<u8>) -> Vec<u8> {
    let (length, body) = framed.split_first_chunk().expect("a length field");
    assert_eq!(usize::try_from(u32::from_be_bytes(*length)), Ok(body.len()));
    body.to_vec()
}
