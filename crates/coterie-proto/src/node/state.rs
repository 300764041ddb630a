//! The states of a handshake under way.

use std::net::SocketAddr;
use std::time::Duration;

use coterie_model::{CommunityTag, Epoch, Instant};

use super::peer::Agreed;
use crate::{
    handshake::{
        exchange::{Answered, Offered, Responded},
        initiator::ExpectResponse,
    },
    session::Session,
};

/// First wait before a step is repeated.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// An offer or confirm without an answer for this long gives way to a new initiation.
const START_OVER: Duration = Duration::from_secs(5);
/// A handshake without progress for this long is given up.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);

/// A handshake that we started.
pub(super) struct Outgoing {
    pub(super) tag: CommunityTag,
    pub(super) epoch: Epoch,
    /// Runs inside the live session.
    pub(super) in_session: bool,
    /// Last progress.
    pub(super) since: Instant,
    /// When it began: ties are decided on it.
    pub(super) began: Instant,
    pub(super) retry_at: Instant,
    /// Where it runs, unless inside the session.
    pub(super) to: Option<SocketAddr>,
    /// Initiations sent so far.
    pub(super) attempts: usize,
    interval: Duration,
    pub(super) stage: Stage,
}

/// Which message the initiator waits for.
pub(super) enum Stage {
    /// Message 2.
    ExpectResponse(ExpectResponse),
    /// The answer; the offer stands ready to be repeated.
    ExpectAnswer {
        offered: Offered,
        agreed: Agreed,
        datagram: Vec<u8>,
    },
    /// Anything under final keys; confirm and probe stand ready to be repeated.
    ExpectProof { session: Session, confirm: Vec<u8> },
    /// Between two states while a message is worked on; never left there.
    Taken,
}

impl Outgoing {
    pub(super) fn new(tag: CommunityTag, epoch: Epoch, in_session: bool, now: Instant, expect: ExpectResponse) -> Self {
        Self {
            tag,
            epoch,
            in_session,
            since: now,
            began: now,
            retry_at: now + FIRST_RETRY,
            to: None,
            attempts: 0,
            interval: FIRST_RETRY,
            stage: Stage::ExpectResponse(expect),
        }
    }

    /// The next step begins: patience begins anew.
    pub(super) fn progress(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
        self.interval = FIRST_RETRY;
        self.retry_at = now + FIRST_RETRY;
    }

    /// A step was repeated: wait longer, with up to a fifth of jitter taken from `random`, but not beyond the end.
    pub(super) fn back_off(&mut self, now: Instant, random: u8) {
        self.interval = (self.interval * 3 / 2).min(LONGEST_RETRY);
        let next = now + self.interval + self.interval * u32::from(random) / (5 * 256);
        self.retry_at = next.min(self.since + GIVE_UP);
    }

    /// The responder answered once and does not any more: it may have restarted, and knows nothing of this handshake.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        let answered = matches!(self.stage, Stage::ExpectAnswer { .. } | Stage::ExpectProof { .. });
        answered && now.since(self.since) >= START_OVER
    }

    /// Without progress for too long, or at it for too long.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.since(self.since) >= GIVE_UP || now.since(self.began) >= 2 * GIVE_UP
    }

    pub(super) fn local_index(&self) -> Option<u32> {
        match &self.stage {
            Stage::ExpectResponse(e) => Some(e.local_index),
            Stage::ExpectAnswer { agreed, .. } => Some(agreed.local_index),
            Stage::ExpectProof { session, .. } => Some(session.origin.local_index),
            Stage::Taken => None,
        }
    }
}

/// A handshake that the peer started.
pub(super) struct Incoming {
    pub(super) agreed: Agreed,
    pub(super) in_session: bool,
    /// Where the response went, unless inside the session.
    pub(super) from: Option<SocketAddr>,
    pub(super) began: Instant,
    pub(super) stage: Asked,
}

/// Which message the responder waits for.
pub(super) enum Asked {
    /// The offer.
    ExpectOffer(Responded),
    /// The confirm; the answer stands ready to be repeated.
    ExpectConfirm { answered: Box<Answered>, datagram: Vec<u8> },
    /// Anything under final keys.
    ExpectProof(Session),
    /// Between two states while a message is worked on; never left there.
    Taken,
}

impl Incoming {
    pub(super) fn expires_at(&self) -> Instant {
        self.began + GIVE_UP
    }
}
