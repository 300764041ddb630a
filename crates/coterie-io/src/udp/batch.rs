//! Batches of datagrams: memory that is taken once, and an index of what lies where in it.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut, Range};

/// Messages that one system call carries at most.
pub(super) const MESSAGES: usize = 32;

/// Received datagrams.
pub struct RecvBatch {
    arena: Box<[u8]>,
    slot_size: usize,
    arrivals: Vec<Arrival>,
    truncated: u64,
}

/// One message of the kernel, lying in the slot of the same number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) from: Option<SocketAddr>,
    pub(super) length: usize,
    /// 0: the message is one datagram.
    pub(super) segment_size: usize,
    pub(super) truncated: bool,
}

impl RecvBatch {
    /// Bytes of a slot without receive offload: more than any datagram of ours.
    pub const SLOT: usize = 2_048;

    /// Bytes of a slot with receive offload: the largest that the kernel joins.
    pub const GRO_SLOT: usize = 65_536;

    /// An empty batch with `slots` (at most 32) of `slot_size` bytes each.
    #[must_use]
    pub fn new(slots: usize, slot_size: usize) -> Self {
        let slots = slots.clamp(1, MESSAGES);
        let slot_size = slot_size.max(1);
        Self {
            arena: vec![0; slots * slot_size].into_boxed_slice(),
            slot_size,
            arrivals: Vec::with_capacity(slots),
            truncated: 0,
        }
    }

    /// The datagrams, each with its sender, in the order in which they came.
    pub fn datagrams_mut(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        self.arena
            .chunks_exact_mut(self.slot_size)
            .zip(&self.arrivals)
            .flat_map(|(slot, arrival)| {
                // A truncated message, and one from no address, count as nothing.
                let length = if arrival.truncated || arrival.from.is_none() {
                    0
                } else {
                    arrival.length
                };
                let size = if arrival.segment_size == 0 {
                    length
                } else {
                    arrival.segment_size
                };
                let from = arrival.from;
                slot[..length]
                    .chunks_mut(size.max(1))
                    .filter_map(move |bytes| Some((from?, bytes)))
            })
    }

    /// Whether it holds no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Messages that were larger than a slot and were left out, since the batch was made.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// Forgets its datagrams.
    pub fn clear(&mut self) {
        self.arrivals.clear();
    }

    pub(super) fn slots(&self) -> usize {
        self.arena.len() / self.slot_size
    }

    pub(super) fn slots_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.arena.chunks_exact_mut(self.slot_size)
    }

    pub(super) fn arrived(&mut self, arrival: Arrival) {
        self.truncated += u64::from(arrival.truncated);
        self.arrivals.push(arrival);
    }
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecvBatch")
            .field("messages", &self.arrivals.len())
            .field("slots", &self.slots())
            .finish()
    }
}

/// Datagrams to be sent, back to back in one arena, so that a run of equal sizes to one address can go as one message.
pub struct SendBatch {
    arena: Box<[u8]>,
    used: usize,
    entries: Vec<Entry>,
    /// Entries that have been dealt with.
    done: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    to: SocketAddr,
    span: Range<usize>,
}

impl SendBatch {
    /// An empty batch with room for `bytes` of datagrams.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            arena: vec![0; bytes].into_boxed_slice(),
            used: 0,
            entries: Vec::new(),
            done: 0,
        }
    }

    /// Reserves `length` bytes for a datagram to `to`. It is part of the batch once [`Reservation::commit`] is called;
    /// dropped without that, it leaves no trace. What the bytes hold is left over from earlier datagrams.
    ///
    /// `None`: not that much room is left; send the batch first.
    pub fn reserve(&mut self, to: SocketAddr, length: usize) -> Option<Reservation<'_>> {
        let end = self.used.checked_add(length).filter(|&end| end <= self.arena.len())?;
        let span = self.used..end;
        Some(Reservation { batch: self, to, span })
    }

    /// Datagrams that it holds and that have been neither sent nor refused.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.done
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that can still be reserved.
    #[must_use]
    pub fn room(&self) -> usize {
        self.arena.len() - self.used
    }

    /// Forgets its datagrams.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.used = 0;
        self.done = 0;
    }

    /// What would be sent, in order.
    pub fn unsent(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.entries[self.done..]
            .iter()
            .map(|entry| (entry.to, &self.arena[entry.span.clone()]))
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.done = (self.done + count).min(self.entries.len());
    }
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendBatch")
            .field("datagrams", &self.len())
            .field("bytes", &self.used)
            .finish()
    }
}

/// Room for one datagram of a [`SendBatch`], not part of it yet.
#[must_use = "a reservation that is not committed is not sent"]
pub struct Reservation<'batch> {
    batch: &'batch mut SendBatch,
    to: SocketAddr,
    span: Range<usize>,
}

impl Reservation<'_> {
    /// Makes all its bytes a datagram of the batch.
    pub fn commit(self) {
        let length = self.span.len();
        self.commit_first(length);
    }

    /// Makes its first `length` bytes a datagram of the batch and gives the rest back.
    ///
    /// # Panics
    /// If `length` is more than was reserved.
    pub fn commit_first(self, length: usize) {
        assert!(
            length <= self.span.len(),
            "a datagram of {length} bytes in a reservation of {}",
            self.span.len()
        );
        let span = self.span.start..self.span.start + length;
        self.batch.used = span.end;
        self.batch.entries.push(Entry { to: self.to, span });
    }
}

impl Deref for Reservation<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.batch.arena[self.span.clone()]
    }
}

impl DerefMut for Reservation<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.batch.arena[self.span.clone()]
    }
}

impl std::fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reservation")
            .field("to", &self.to)
            .field("length", &self.span.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_dropped_reservation_leaves_no_trace_and_committed_ones_lie_back_to_back() {
        let mut batch = SendBatch::new(100);
        let mut first = batch.reserve(address(1), 10).expect("room");
        first.fill(1);
        first.commit();
        batch.reserve(address(2), 90).expect("room").fill(2);
        let mut third = batch.reserve(address(3), 50).expect("room");
        third.fill(3);
        third.commit_first(20);

        let held: Vec<(u16, Vec<u8>)> = batch.unsent().map(|(to, bytes)| (to.port(), bytes.to_vec())).collect();
        assert_eq!(held, [(1, vec![1; 10]), (3, vec![3; 20])]);
        assert_eq!((batch.len(), batch.room()), (2, 70));
        assert!(batch.reserve(address(4), 71).is_none());
        assert!(batch.reserve(address(4), usize::MAX).is_none());

        batch.advance(1);
        assert_eq!(batch.unsent().map(|(to, _)| to.port()).collect::<Vec<_>>(), [3]);
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.room(), 100);
    }

    #[test]
    fn joined_datagrams_are_cut_apart_and_truncated_ones_left_out() {
        let mut batch = RecvBatch::new(4, 100);
        let arrival = Arrival {
            from: Some(address(9)),
            length: 100,
            segment_size: 0,
            truncated: false,
        };
        batch.arrived(arrival);
        batch.arrived(Arrival {
            segment_size: 40,
            ..arrival
        });
        batch.arrived(Arrival {
            truncated: true,
            ..arrival
        });
        batch.arrived(Arrival {
            length: 7,
            from: None,
            ..arrival
        });
        let lengths: Vec<usize> = batch.datagrams_mut().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [100, 40, 40, 20]);
        assert_eq!(batch.truncated(), 1);
    }
}
