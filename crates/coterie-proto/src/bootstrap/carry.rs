//! Bytes carried whole over a session that loses, repeats and reorders: chunks in a window, acknowledged by the offset of the
//! first byte that is missing.

use std::time::Duration;

use coterie_model::Instant;

use crate::{DropReason, wire::control::Control};

/// Bytes of a piece.
pub const CHUNK: usize = crate::wire::control::CARRY_CHUNK;
/// Bytes that may be under way.
const WINDOW: usize = 16 * CHUNK;
/// First wait for an acknowledgement.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What goes out.
pub(super) struct Outbound {
    bytes: Vec<u8>,
    acknowledged: usize,
    next: usize,
    wait: Duration,
    again_at: Instant,
}

impl Outbound {
    pub(super) fn new(bytes: Vec<u8>, now: Instant) -> Self {
        Self {
            bytes,
            acknowledged: 0,
            next: 0,
            wait: FIRST_WAIT,
            again_at: now,
        }
    }

    /// When pieces are sent again, unless something is acknowledged before.
    pub(super) fn again_at(&self) -> Option<Instant> {
        (!self.is_done()).then_some(self.again_at)
    }

    pub(super) fn is_done(&self) -> bool {
        self.acknowledged == self.bytes.len()
    }

    /// The other end has everything before `offset`.
    pub(super) fn acknowledge(&mut self, offset: u32, now: Instant) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset > self.acknowledged && offset <= self.bytes.len() {
            self.acknowledged = offset;
            self.next = self.next.max(offset);
            self.wait = FIRST_WAIT;
            self.again_at = now + self.wait;
        }
    }

    /// Gives the pieces that may go out at `now` to `send`.
    pub(super) fn send(&mut self, now: Instant, mut send: impl FnMut(&[u8])) {
        if self.is_done() {
            return;
        }
        if self.next > self.acknowledged && self.again_at <= now {
            self.next = self.acknowledged;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
        let end = self.bytes.len().min(self.acknowledged + WINDOW);
        if self.next >= end {
            return;
        }
        let total = u32::try_from(self.bytes.len()).expect("bounded where it was given");
        while self.next < end {
            let piece = &self.bytes[self.next..end.min(self.next + CHUNK)];
            let offset = u32::try_from(self.next).expect("below the total");
            let bytes = piece;
            send(&Control::Carry { offset, total, bytes }.to_bytes());
            self.next += piece.len();
        }
        self.again_at = now + self.wait;
    }
}

/// What comes in.
#[derive(Default)]
pub(super) struct Inbound {
    total: Option<usize>,
    /// Bytes that came.
    came: usize,
    bytes: Vec<u8>,
}

impl Inbound {
    /// Takes a piece of at most `max` bytes in all; gives what to acknowledge.
    ///
    /// # Errors
    /// [`DropReason::BadControl`] when it is too large, or does not fit what came before.
    pub(super) fn take(&mut self, max: usize, offset: u32, total: u32, bytes: &[u8]) -> Result<u32, DropReason> {
        let bad = |_range| DropReason::BadControl;
        let offset = usize::try_from(offset).map_err(bad)?;
        let total = usize::try_from(total).map_err(bad)?;
        let fits = total <= max && offset.checked_add(bytes.len()).is_some_and(|end| end <= total);
        if !fits || *self.total.get_or_insert(total) != total {
            return Err(DropReason::BadControl);
        }
        // What comes ahead of its turn is sent again; what came before is acknowledged again.
        if offset == self.came {
            self.bytes.extend_from_slice(bytes);
            self.came += bytes.len();
        }
        Ok(self.next())
    }

    /// The first byte that is missing.
    pub(super) fn next(&self) -> u32 {
        u32::try_from(self.came).expect("at most as much as may be taken")
    }

    pub(super) fn is_whole(&self) -> bool {
        self.total == Some(self.came)
    }

    /// The bytes, once: what is repeated afterwards is acknowledged and nothing else.
    pub(super) fn take_whole(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.bytes)
    }
}
