//! A session: two members, one community, keys for each lane and direction (WIRE section 5).

pub mod replay;

use std::time::Duration;

use coterie_crypto::{
    Secret,
    aead::{Key, Suite, TAG_LEN},
    hash,
};
use coterie_model::{CommunityTag, Epoch, Instant};

use crate::{
    DropReason,
    wire::datagram::{SEALED_HEADER, SEALED_OVERHEAD, SealedHeader},
};
use replay::{Place, Window};

/// Packets in a lane after which a session asks to be replaced: keys are used for less than AES-GCM allows (RFC 9001 B.1).
pub const REKEY_AFTER_PACKETS: u64 = 1 << 28;
/// The counter that is never sealed.
pub const REFUSE_COUNTER: u64 = 1 << 32;
/// Age at which a session that is used is replaced, by the side that made it.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The same for the other side, should the first not have done it.
pub const REKEY_AFTER_AS_RESPONDER: Duration = Duration::from_secs(135);
/// Age at which a session's keys are erased.
pub const END_AFTER: Duration = Duration::from_secs(180);
/// Packets of a lane whose tags are kept, to notice a sender that runs twice.
const TWIN_MEMORY: usize = 64;

/// What a new session is made from.
pub struct Material<'a> {
    /// Root of the direction that we send in.
    pub send_root: &'a Secret<32>,
    /// Root of the other.
    pub receive_root: &'a Secret<32>,
    /// The suite chosen in message 2.
    pub suite: Suite,
    /// Lanes that we send on.
    pub send_lanes: u8,
    /// Lanes that the peer announced.
    pub receive_lanes: u8,
}

/// How a session came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Names the session here.
    pub local_index: u32,
    /// Names it at the peer.
    pub remote_index: u32,
    /// True when we sent message 1.
    pub initiator: bool,
    /// The community that admits it.
    pub tag: CommunityTag,
    /// The epoch of its key.
    pub epoch: Epoch,
    /// When its keys were made.
    pub made: Instant,
}

/// A live session.
pub struct Session {
    /// How it came to be.
    pub origin: Origin,
    /// The cipher.
    pub suite: Suite,
    /// Packets were sealed or opened since it was made, so that it is worth replacing.
    pub used: bool,
    send: Vec<SendLane>,
    receive: Vec<ReceiveLane>,
}

struct SendLane {
    key: Key,
    iv: [u8; 12],
    next: u64,
}

struct ReceiveLane {
    key: Key,
    iv: [u8; 12],
    /// Made at the first authentic packet.
    memory: Option<Box<Memory>>,
}

#[derive(Default)]
struct Memory {
    window: Window,
    recent: Vec<Recent>,
    oldest: usize,
}

#[derive(Clone, Copy)]
struct Recent {
    counter: u64,
    salt: [u8; 4],
    tag: [u8; TAG_LEN],
}

/// Why a sealed packet was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOpened {
    /// A lane that the peer did not announce.
    UnknownLane,
    /// A counter at or above the limit.
    CounterLimit,
    /// Seen, or too old to know.
    Replayed,
    /// The tag does not check.
    Forged,
    /// The sender runs twice: an authentic packet has a counter that another authentic packet had (WIRE section 5.4).
    Twin,
}

impl From<NotOpened> for DropReason {
    fn from(not_opened: NotOpened) -> Self {
        match not_opened {
            NotOpened::UnknownLane => Self::UnknownLane,
            NotOpened::CounterLimit => Self::CounterLimit,
            NotOpened::Replayed | NotOpened::Twin => Self::Replayed,
            NotOpened::Forged => Self::Forged,
        }
    }
}

/// No counter is left in the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterSpent;

impl Session {
    /// Derives all lane keys; the caller drops the roots afterwards.
    #[must_use]
    pub fn new(material: &Material<'_>, origin: Origin) -> Self {
        let lanes = |root: &Secret<32>, count: u8| {
            (0..count)
                .map(|lane| lane_key(root, lane, material.suite))
                .collect::<Vec<_>>()
        };
        Self {
            origin,
            suite: material.suite,
            used: false,
            send: lanes(material.send_root, material.send_lanes)
                .into_iter()
                .map(|(key, iv)| SendLane { key, iv, next: 0 })
                .collect(),
            receive: lanes(material.receive_root, material.receive_lanes)
                .into_iter()
                .map(|(key, iv)| ReceiveLane { key, iv, memory: None })
                .collect(),
        }
    }

    /// Seals `text` into `out`, which has exactly [`SEALED_OVERHEAD`] bytes more.
    ///
    /// # Errors
    /// [`CounterSpent`] when the lane's counter is at its limit: the session is over for sending.
    ///
    /// # Panics
    /// When `out` has another length, or `lane` is not one of ours: a caller's error.
    pub fn seal(&mut self, lane: u8, salt: [u8; 4], text: &[u8], out: &mut [u8]) -> Result<(), CounterSpent> {
        assert_eq!(
            out.len(),
            text.len() + SEALED_OVERHEAD,
            "the caller reserves the sealed length"
        );
        let sender = &mut self.send[usize::from(lane)];
        if sender.next >= REFUSE_COUNTER {
            return Err(CounterSpent);
        }
        let counter = sender.next;
        sender.next += 1;
        self.used = true;
        let header = SealedHeader {
            lane,
            receiver: self.origin.remote_index,
            salt,
            counter,
        }
        .to_bytes();
        let (head, rest) = out.split_at_mut(SEALED_HEADER);
        let (body, tag) = rest.split_at_mut(text.len());
        head.copy_from_slice(&header);
        body.copy_from_slice(text);
        tag.copy_from_slice(&sender.key.seal(nonce(&sender.iv, salt, counter), &header, body));
        Ok(())
    }

    /// Opens a datagram in place: the text. Nothing changes unless it is authentic.
    ///
    /// # Errors
    /// [`NotOpened`] says why.
    pub fn open<'a>(&mut self, header: SealedHeader, datagram: &'a mut [u8]) -> Result<&'a mut [u8], NotOpened> {
        let lane = self
            .receive
            .get_mut(usize::from(header.lane))
            .ok_or(NotOpened::UnknownLane)?;
        if header.counter >= REFUSE_COUNTER {
            return Err(NotOpened::CounterLimit);
        }
        let place = lane
            .memory
            .as_ref()
            .map_or(Place::New, |m| m.window.place(header.counter));
        let (head, sealed) = datagram.split_at_mut(SEALED_HEADER);
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&sealed[sealed.len() - TAG_LEN..]);
        let nonce = nonce(&lane.iv, header.salt, header.counter);
        match place {
            Place::TooOld => return Err(NotOpened::Replayed),
            Place::Seen => {
                let differs = lane
                    .memory
                    .as_ref()
                    .and_then(|m| m.recent.iter().find(|r| r.counter == header.counter))
                    .is_some_and(|r| r.tag != tag && r.salt != header.salt);
                if !differs {
                    return Err(NotOpened::Replayed);
                }
                // Not rationed: a forgery costs no more here than one with a counter that is new.
                return Err(match lane.key.open(nonce, head, sealed) {
                    Ok(_) => NotOpened::Twin,
                    Err(_) => NotOpened::Replayed,
                });
            }
            Place::New => {}
        }
        let text = lane
            .key
            .open(nonce, head, sealed)
            .map_err(|_refused| NotOpened::Forged)?;
        let memory = lane.memory.get_or_insert_with(Box::default);
        memory.window.accept(header.counter);
        memory.remember(Recent {
            counter: header.counter,
            salt: header.salt,
            tag,
        });
        self.used = true;
        Ok(text)
    }

    /// Lanes that we send on.
    #[must_use]
    pub fn send_lanes(&self) -> u8 {
        u8::try_from(self.send.len()).expect("at most 16 lanes")
    }

    /// True when a lane has sent so much that the session should be replaced.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.send.iter().any(|l| l.next >= REKEY_AFTER_PACKETS)
    }

    /// When the session is to be replaced by us, if it is used.
    #[must_use]
    pub fn rekey_at(&self) -> Instant {
        self.origin.made
            + if self.origin.initiator {
                REKEY_AFTER
            } else {
                REKEY_AFTER_AS_RESPONDER
            }
    }

    /// When its keys are erased.
    #[must_use]
    pub fn ends_at(&self) -> Instant {
        self.origin.made + END_AFTER
    }

    /// Starts every lane's counter at `counter`: limits are states, and tests must reach them.
    #[cfg(test)]
    pub(crate) fn set_counters(&mut self, counter: u64) {
        self.send.iter_mut().for_each(|l| l.next = counter);
    }
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Memory {
    fn remember(&mut self, recent: Recent) {
        if self.recent.len() < TWIN_MEMORY {
            self.recent.push(recent);
        } else {
            self.recent[self.oldest] = recent;
            self.oldest = (self.oldest + 1) % TWIN_MEMORY;
        }
    }
}

fn lane_key(root: &Secret<32>, lane: u8, suite: Suite) -> (Key, [u8; 12]) {
    let out: Secret<44> = hash::expand(root, &[b"coterie/1 lane", &[lane]]);
    let (key, iv) = out.expose().split_at(32);
    let mut iv_bytes = [0; 12];
    iv_bytes.copy_from_slice(iv);
    (
        Key::new(suite, &Secret::from_slice(key).expect("32 of 44 bytes")),
        iv_bytes,
    )
}

fn nonce(iv: &[u8; 12], salt: [u8; 4], counter: u64) -> [u8; 12] {
    let mut nonce = *iv;
    for (n, s) in nonce[..4].iter_mut().zip(salt) {
        *n ^= s;
    }
    for (n, c) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
        *n ^= c;
    }
    nonce
}

#[cfg(test)]
mod tests;
