//! The bytes of the stream (`docs/BUNDLE.md` section 10): a message is its length, its kind, and its fields.

use coterie_crypto::Secret;
use coterie_model::{
    CommunityTag, DirectoryEntry, EpochKey, Head, Malformed, Manifest, Name, Reader, Revocations, Signed, Statement,
    UnixTime, Unverified, Writer,
};

/// Longest message, without its length field.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Most entries of one [`Message::View`]: a view is told in pieces.
pub const PIECE: usize = 100;
const MAX_OBJECT: usize = 1232;
const MAX_LIST: usize = u16::MAX as usize;
const MAX_MANIFESTS: usize = 8;
const MAX_GONE: usize = 1000;
/// Most knock keys of one [`Message::Knocks`].
pub const MAX_KNOCKS: usize = 1024;

/// Longest destination of a [`Message::Explain`], in bytes.
pub const MAX_DESTINATION: usize = 256;

const BEGIN: u8 = 1;
const END: u8 = 2;

/// What the server tells a node. Signed objects are still to be verified by who reads them.
#[derive(Debug)]
pub enum Message {
    /// The enclave's pulse.
    Pulse(Unverified<Head>),
    /// Who is refused.
    Revocations(Unverified<Revocations>),
    /// The epochs of a community that have not retired: one that is not named has.
    Manifests(CommunityTag, Vec<Unverified<Manifest>>),
    /// What changed of a community's view, or a piece of the whole.
    View(ViewPiece),
    /// The node's own membership changed: it is to ask for a bundle.
    Renew,
    /// What visitors may knock with, for a door: all of it.
    Knocks(Vec<Knocking>),
    /// Everything until this revision was told: where to go on after a break.
    Mark(u64),
    /// The node is asked how it would reach somebody, as it is now, and answers by a request of its own.
    Explain {
        /// What the answer names.
        id: u64,
        /// A name or an inside address, at most [`MAX_DESTINATION`] bytes.
        destination: String,
    },
}

/// A piece of a community's view.
#[derive(Debug)]
pub struct ViewPiece {
    /// The community.
    pub tag: CommunityTag,
    /// The first piece of a whole view: who is not named until [`Self::ends`] is gone.
    pub begins: bool,
    /// The last piece of a whole view.
    pub ends: bool,
    /// Members, with what is known of them in this community.
    pub entries: Vec<DirectoryEntry<Unverified<Statement>>>,
    /// Members that are in it no more.
    pub gone: Vec<Name>,
}

/// A token, as its door knows it.
#[derive(Debug)]
pub struct Knocking {
    /// The token's identifier as tag, epoch 1, and the knock key for this door.
    pub key: EpochKey,
    /// When it ends.
    pub not_after: UnixTime,
}

impl Message {
    /// Parses a message, without its length field.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are none.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let unknown = r.malformed("kind of message");
        let message = match r.u8("kind of message")? {
            1 => Self::Pulse(object(&mut r, MAX_OBJECT, "head")?),
            2 => Self::Revocations(object(&mut r, MAX_LIST, "revocations")?),
            3 => {
                let tag = CommunityTag(r.array("community tag")?);
                let count = bounded(usize::from(r.u8("manifests")?), MAX_MANIFESTS, unknown)?;
                let manifests = (0..count).map(|_| object(&mut r, MAX_OBJECT, "manifest"));
                Self::Manifests(tag, manifests.collect::<Result<_, _>>()?)
            }
            4 => Self::View(view(&mut r)?),
            5 => Self::Renew,
            6 => {
                let count = bounded(usize::from(r.u16("knock keys")?), MAX_KNOCKS, unknown)?;
                let knocks = (0..count).map(|_| {
                    let tag = CommunityTag(r.array("token")?);
                    let key = r.take(32, "knock key")?;
                    let key = EpochKey {
                        tag,
                        epoch: 1,
                        key: Secret::from_slice(key).expect("32 bytes were taken"),
                    };
                    let not_after = UnixTime(r.u64("not-after")?);
                    Ok(Knocking { key, not_after })
                });
                Self::Knocks(knocks.collect::<Result<_, Malformed>>()?)
            }
            7 => Self::Mark(r.u64("revision")?),
            8 => {
                let id = r.u64("number of the question")?;
                let bad = r.malformed("destination");
                let destination = r.counted(MAX_DESTINATION, "destination")?.to_vec();
                let destination = String::from_utf8(destination).map_err(|_utf8| bad)?;
                Self::Explain { id, destination }
            }
            _ => return Err(unknown),
        };
        r.finish()?;
        Ok(message)
    }
}

fn object<T: coterie_model::SignedObject>(
    r: &mut Reader<'_>,
    max: usize,
    what: &'static str,
) -> Result<Unverified<T>, Malformed> {
    let bad = r.malformed(what);
    Unverified::parse(r.counted(max, what)?).map_err(|_inner| bad)
}

fn bounded(count: usize, max: usize, bad: Malformed) -> Result<usize, Malformed> {
    if count > max { Err(bad) } else { Ok(count) }
}

fn view(r: &mut Reader<'_>) -> Result<ViewPiece, Malformed> {
    let tag = CommunityTag(r.array("community tag")?);
    let bad = r.malformed("flags");
    let flags = r.u8("flags")?;
    if flags > BEGIN | END {
        return Err(bad);
    }
    let bad = r.malformed("count of entries");
    let count = bounded(usize::from(r.u16("count of entries")?), PIECE, bad)?;
    let entries = (0..count).map(|_| DirectoryEntry::decode(r));
    let entries = entries.collect::<Result<_, _>>()?;
    let bad = r.malformed("count of members that are gone");
    let count = bounded(usize::from(r.u16("count of members that are gone")?), MAX_GONE, bad)?;
    let gone = (0..count).map(|_| r.name("member that is gone"));
    Ok(ViewPiece {
        tag,
        begins: flags & BEGIN != 0,
        ends: flags & END != 0,
        entries,
        gone: gone.collect::<Result<_, _>>()?,
    })
}

/// [`Message::Pulse`].
#[must_use]
pub fn pulse(head: &Signed<Head>) -> Vec<u8> {
    message(1, |w| {
        w.counted(head.bytes());
    })
}

/// [`Message::Revocations`].
#[must_use]
pub fn revocations(list: &Signed<Revocations>) -> Vec<u8> {
    message(2, |w| {
        w.counted(list.bytes());
    })
}

/// [`Message::Manifests`].
///
/// # Panics
/// When there are more than a community has: a caller's error.
#[must_use]
pub fn manifests<'a>(tag: CommunityTag, epochs: impl ExactSizeIterator<Item = &'a Signed<Manifest>>) -> Vec<u8> {
    message(3, |w| {
        w.bytes(&tag.0)
            .u8(u8::try_from(epochs.len()).expect("few epochs are live"));
        epochs.for_each(|manifest| {
            w.counted(manifest.bytes());
        });
    })
}

/// [`Message::View`], as a change: `entries` came or changed, `gone` left. As many messages as it takes.
#[must_use]
pub fn change(tag: CommunityTag, entries: &[DirectoryEntry], gone: &[Name]) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = entries.chunks(PIECE).map(|e| piece(tag, 0, e, &[])).collect();
    all.extend(gone.chunks(MAX_GONE).map(|names| piece(tag, 0, &[], names)));
    all
}

/// [`Message::View`], as a whole: whoever is not in `entries` is gone.
#[must_use]
pub fn whole(tag: CommunityTag, entries: &[DirectoryEntry]) -> Vec<Vec<u8>> {
    let pieces = entries.len().div_ceil(PIECE).max(1);
    (0..pieces)
        .map(|n| {
            let first = if n == 0 { BEGIN } else { 0 };
            let last = if n + 1 == pieces { END } else { 0 };
            let from = n * PIECE;
            piece(tag, first | last, &entries[from..entries.len().min(from + PIECE)], &[])
        })
        .collect()
}

/// [`Message::View`], as a change: one member, who came or changed.
#[must_use]
pub fn entry_message(tag: CommunityTag, entry: &DirectoryEntry) -> Vec<u8> {
    piece(tag, 0, core::slice::from_ref(entry), &[])
}

fn piece(tag: CommunityTag, flags: u8, entries: &[DirectoryEntry], gone: &[Name]) -> Vec<u8> {
    let count = |n: usize| u16::try_from(n).expect("pieces are small");
    message(4, |w| {
        w.bytes(&tag.0).u8(flags).u16(count(entries.len()));
        entries.iter().for_each(|entry| entry.encode(w));
        w.u16(count(gone.len()));
        gone.iter().for_each(|name| {
            w.name(name);
        });
    })
}

/// [`Message::Renew`].
#[must_use]
pub fn renew() -> Vec<u8> {
    message(5, |_| {})
}

/// [`Message::Knocks`]. Secret.
#[must_use]
pub fn knocks(all: &[Knocking]) -> Vec<u8> {
    let all = &all[..all.len().min(MAX_KNOCKS)];
    message(6, |w| {
        w.u16(u16::try_from(all.len()).expect("at most MAX_KNOCKS"));
        for knock in all {
            w.bytes(&knock.key.tag.0)
                .bytes(knock.key.key.expose())
                .u64(knock.not_after.0);
        }
    })
}

/// [`Message::Mark`].
#[must_use]
pub fn mark(revision: u64) -> Vec<u8> {
    message(7, |w| {
        w.u64(revision);
    })
}

/// [`Message::Explain`]; what is longer than [`MAX_DESTINATION`] is cut, and names nobody.
#[must_use]
pub fn explain(id: u64, destination: &str) -> Vec<u8> {
    let cut = &destination[..destination.floor_char_boundary(MAX_DESTINATION)];
    message(8, |w| {
        w.u64(id).counted(cut.as_bytes());
    })
}

fn message(kind: u8, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(kind);
    fill(&mut w);
    let body = w.into_bytes();
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| usize::try_from(*length).is_ok_and(|n| n <= MAX_MESSAGE))
        .expect("pieces are small");
    let mut framed = Vec::with_capacity(4 + body.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}
