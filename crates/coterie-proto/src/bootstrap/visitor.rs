//! The machine with a token: it calls at each rendezvous in turn until one lets it in, and carries its request there.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{
    Entropy, Refused,
    aead::Suite,
    dh::{KeyPair, PublicKey},
};
use coterie_model::{EpochKey, Instant};

use super::{
    MAX_ANSWER, MAX_REQUEST,
    carry::{Inbound, Outbound},
    payload::{Knocking, parse_opening},
    seal_control,
};
use crate::{
    DropReason, Outcome,
    handshake::{
        cookie,
        exchange::Offered,
        frame::{Framed, RESPONSE_HEADER, append_macs},
        initiator, noise,
        payload::Suites,
    },
    node::Transmit,
    schedule,
    session::{Material, Origin, Session},
    wire::{
        control::Control,
        datagram::{self, Datagram, INITIATION, MAC_LEN, SealedHeader, Step},
    },
};

/// First wait for a message of the handshake.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// Nothing authentic for so long, and the visit begins anew: the door may have restarted.
const PATIENCE: Duration = Duration::from_secs(10);
/// A visit takes no longer, whatever the door says: one that is honest has ended it before.
const LONGEST: Duration = Duration::from_secs(125);

/// Somebody who may stand at the door.
#[derive(Debug)]
pub struct Rendezvous {
    /// Where it is.
    pub endpoint: SocketAddr,
    /// Its static key.
    pub static_key: PublicKey,
    /// The knock key for it: the token's identifier as tag, epoch 1.
    pub knock: EpochKey,
}

/// What a visitor is made from.
pub struct Visit {
    /// The key pair that it wants to be a member with.
    pub keys: KeyPair,
    /// Where it may call, at least one.
    pub rendezvous: Vec<Rendezvous>,
    /// Suites that it has, and the one that it would like.
    pub suites: (Suites, Suite),
    /// For the server alone, at most [`MAX_REQUEST`] bytes.
    pub request: Vec<u8>,
    /// Above every counter that `keys` were used with.
    pub counter: u64,
}

/// A machine on its way into an enclave.
pub struct Visitor {
    visit: Visit,
    entropy: Box<dyn Entropy + Send>,
    /// Calls made so far: which rendezvous is next.
    calls: usize,
    /// Of the rendezvous that was called last.
    cookie: Option<[u8; MAC_LEN]>,
    stage: Stage,
    /// When the last call went out.
    called: Instant,
    /// Last progress.
    heard: Instant,
    wait: Duration,
    again_at: Instant,
    out: VecDeque<Transmit>,
}

/// How far it has come.
enum Stage {
    /// Nothing is under way.
    Outside,
    /// The initiation is out.
    Calling {
        noise: noise::Initiator,
        index: u32,
        mac1: [u8; MAC_LEN],
    },
    /// The offer is out.
    Offering {
        offered: Box<Offered>,
        suite: Suite,
        index: u32,
        remote: u32,
        offer: Vec<u8>,
    },
    /// The session is made: the request goes, the answer comes.
    Carrying(Box<Carrying>),
    /// The answer is there.
    Over,
}

struct Carrying {
    session: Session,
    /// Repeated until something was opened under the session.
    confirm: Option<Vec<u8>>,
    request: Outbound,
    answer: Inbound,
}

impl Visitor {
    /// Begins a visit; the first call goes out with [`Self::handle_timeout`].
    ///
    /// # Panics
    /// When there is no rendezvous or the request is too long: a caller's error.
    #[must_use]
    pub fn new(visit: Visit, entropy: Box<dyn Entropy + Send>, now: Instant) -> Self {
        assert!(
            !visit.rendezvous.is_empty() && visit.request.len() <= MAX_REQUEST,
            "the caller has somewhere to go, and a request that can be carried"
        );
        Self {
            visit,
            entropy,
            calls: 0,
            cookie: None,
            stage: Stage::Outside,
            called: now,
            heard: now,
            wait: FIRST_WAIT,
            again_at: now,
            out: VecDeque::new(),
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Over => None,
            Stage::Carrying(c) => [Some(self.again_at), c.request.again_at()].into_iter().flatten().min(),
            Stage::Outside | Stage::Calling { .. } | Stage::Offering { .. } => Some(self.again_at),
        }
    }

    /// Calls made so far, for who shows progress.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// A counter above every one that was used so far, for another visit with the same keys.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.visit.counter
    }

    /// Whether the door let it in, so that only the server is waited for.
    #[must_use]
    pub fn is_let_in(&self) -> bool {
        matches!(self.stage, Stage::Carrying(_))
    }

    /// The rendezvous that was called last.
    #[must_use]
    pub fn at(&self) -> &Rendezvous {
        &self.visit.rendezvous[self.calls.saturating_sub(1) % self.visit.rendezvous.len()]
    }

    /// Whatever it likes, sealed under the keys of its visit, once the door let it in.
    #[cfg(test)]
    pub(super) fn sealed(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let salt = self.entropy.salt();
        match &mut self.stage {
            Stage::Carrying(carrying) => seal_control(&mut carrying.session, salt, text),
            Stage::Outside | Stage::Calling { .. } | Stage::Offering { .. } | Stage::Over => None,
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Stage::Carrying(_) = self.stage {
            self.carry(now);
        }
        if now < self.again_at {
            return;
        }
        let patient = now.since(self.heard) < PATIENCE && now.since(self.called) < LONGEST;
        let again = match &self.stage {
            Stage::Over => return,
            Stage::Offering { offer, .. } if patient => Some(offer.clone()),
            Stage::Carrying(c) if patient => c.confirm.clone(),
            Stage::Outside | Stage::Calling { .. } | Stage::Offering { .. } | Stage::Carrying(_) => {
                self.call(now);
                return;
            }
        };
        if let Some(bytes) = again {
            self.transmit(bytes);
        }
        if let Stage::Carrying(c) = &mut self.stage {
            // Asks for what is missing, and shows that somebody still waits.
            let next = Control::Carried(c.answer.next()).to_bytes();
            self.say(&next);
        }
        self.back_off(now);
    }

    /// A datagram came; the answer, once it is whole.
    pub fn handle_outside(&mut self, bytes: &mut [u8], now: Instant) -> (Outcome, Option<Vec<u8>>) {
        let taken = match datagram::parse(bytes) {
            Ok(Datagram::Response { sender, receiver }) => self.take_response(sender, receiver, bytes, now),
            Ok(Datagram::Cookie { receiver }) => self.take_cookie(receiver, bytes, now),
            Ok(Datagram::Provisional {
                step: Step::Answer,
                receiver,
            }) => self.take_kem_answer(receiver, bytes, now),
            Ok(Datagram::Sealed(header)) => match self.take_sealed(header, bytes, now) {
                Ok(answer) => return (Outcome::Handled, answer),
                Err(reason) => Err(reason),
            },
            Ok(Datagram::Initiation { .. } | Datagram::Provisional { .. } | Datagram::Question | Datagram::Answer) => {
                Err(DropReason::Stranger)
            }
            Err(reason) => Err(reason),
        };
        (taken.map_or_else(Outcome::Dropped, |()| Outcome::Handled), None)
    }

    /// Sends an initiation to the next rendezvous.
    fn call(&mut self, now: Instant) {
        let at = self.calls % self.visit.rendezvous.len();
        self.calls += 1;
        let cookie = self.cookie.take().filter(|_| self.visit.rendezvous.len() == 1);
        self.stage = Stage::Outside;
        self.initiate(at, cookie, now);
        self.back_off(now);
    }

    fn initiate(&mut self, at: usize, cookie: Option<[u8; MAC_LEN]>, now: Instant) {
        let visit = &mut self.visit;
        let rendezvous = &visit.rendezvous[at];
        let payload = Knocking {
            counter: visit.counter,
            suites: visit.suites.0,
            preferred: visit.suites.1,
        };
        visit.counter += 1;
        let mut index = [0; 4];
        while index == [0; 4] {
            self.entropy.fill(&mut index);
        }
        let mut message = vec![INITIATION, 0, 0, 0];
        message.extend_from_slice(&index);
        let started = noise::Initiator::start(
            &visit.keys,
            &rendezvous.static_key,
            &schedule::psk(&rendezvous.knock, &rendezvous.static_key),
            &schedule::prologue(&rendezvous.knock),
            &payload.to_bytes(),
            &mut *self.entropy,
            &mut message,
        );
        // A rendezvous whose key is a low-order point is passed over: the next one is called when this one's time is up.
        let Ok(noise) = started else { return };
        let mac_key = schedule::mac_key(&rendezvous.knock, &rendezvous.static_key);
        let mac1 = append_macs(&mut message, &mac_key, cookie.as_ref());
        self.stage = Stage::Calling {
            noise,
            index: u32::from_be_bytes(index),
            mac1,
        };
        (self.called, self.heard) = (now, now);
        self.transmit(message);
    }

    fn take_cookie(&mut self, receiver: u32, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let Stage::Calling { index, mac1, .. } = &self.stage else {
            return Err(DropReason::Unexpected);
        };
        if *index != receiver {
            return Err(DropReason::UnknownIndex);
        }
        let rendezvous = self.at();
        let cookie = cookie::open(&rendezvous.knock, &rendezvous.static_key, mac1, datagram)
            .map_err(|_refused| DropReason::Forged)?;
        let at = (self.calls - 1) % self.visit.rendezvous.len();
        self.initiate(at, Some(cookie), now);
        self.wait = FIRST_WAIT;
        self.back_off(now);
        Ok(())
    }

    fn take_response(&mut self, remote: u32, receiver: u32, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let Stage::Calling { noise, index, .. } = &self.stage else {
            return Err(DropReason::Unexpected);
        };
        if *index != receiver {
            return Err(DropReason::UnknownIndex);
        }
        let (index, keys) = (*index, &self.visit.keys);
        if !initiator::verifies(&self.at().knock, keys.public(), datagram) {
            return Err(DropReason::Stranger);
        }
        let forged = |_refused: Refused| DropReason::Forged;
        let framed = Framed::cut(datagram).ok_or(DropReason::BadLength)?;
        let message = framed.before_mac1.get(RESPONSE_HEADER..).ok_or(DropReason::BadLength)?;
        let (established, payload) = noise.finish(keys, message).map_err(forged)?;
        let suite = parse_opening(&payload).map_err(|_malformed| DropReason::BadHandshake)?;
        if !self.visit.suites.0.has(suite) {
            return Err(DropReason::BadHandshake);
        }
        let offered = Box::new(Offered::new(established, &mut *self.entropy));
        let offer = offered.provisional.seal(Step::Offer, remote, &offered.offer[..]);
        self.stage = Stage::Offering {
            offered,
            suite,
            index,
            remote,
            offer: offer.clone(),
        };
        self.transmit(offer);
        self.progress(now);
        Ok(())
    }

    fn take_kem_answer(&mut self, receiver: u32, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let Stage::Offering { offered, index, .. } = &self.stage else {
            return Err(DropReason::Unexpected);
        };
        if *index != receiver {
            return Err(DropReason::UnknownIndex);
        }
        let answer = offered
            .provisional
            .open(Step::Answer, datagram)
            .map_err(|_refused| DropReason::Forged)?;
        let Stage::Offering {
            offered,
            suite,
            index,
            remote,
            ..
        } = core::mem::replace(&mut self.stage, Stage::Outside)
        else {
            return Err(DropReason::Unexpected);
        };
        let rendezvous = &self.visit.rendezvous[(self.calls - 1) % self.visit.rendezvous.len()];
        let (provisional, wrapped, roots) =
            offered.confirm(&answer, &rendezvous.knock, &rendezvous.static_key, &mut *self.entropy);
        let material = Material {
            send_root: &roots.i2r,
            receive_root: &roots.r2i,
            suite,
            send_lanes: 1,
            receive_lanes: 1,
        };
        let origin = Origin {
            local_index: index,
            remote_index: remote,
            initiator: true,
            tag: rendezvous.knock.tag,
            epoch: rendezvous.knock.epoch,
            made: now,
        };
        let confirm = provisional.seal(Step::Confirm, remote, &wrapped);
        self.transmit(confirm.clone());
        self.stage = Stage::Carrying(Box::new(Carrying {
            session: Session::new(&material, origin),
            confirm: Some(confirm),
            request: Outbound::new(self.visit.request.clone(), now),
            answer: Inbound::default(),
        }));
        self.progress(now);
        self.carry(now);
        Ok(())
    }

    fn take_sealed(
        &mut self,
        header: SealedHeader,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let Stage::Carrying(c) = &mut self.stage else {
            return Err(DropReason::Unexpected);
        };
        if c.session.origin.local_index != header.receiver {
            return Err(DropReason::UnknownIndex);
        }
        let text = c.session.open(header, datagram).map_err(DropReason::from)?;
        c.confirm = None;
        self.heard = now;
        match Control::parse(text).map_err(|_malformed| DropReason::BadControl)? {
            Control::Carried(offset) => {
                c.request.acknowledge(offset, now);
                self.carry(now);
            }
            Control::Carry { offset, total, bytes } => {
                let next = c.answer.take(MAX_ANSWER, offset, total, bytes)?;
                let whole = c.answer.is_whole();
                self.say(&Control::Carried(next).to_bytes());
                self.wait = FIRST_WAIT;
                self.back_off(now);
                if whole {
                    self.say(&Control::Close.to_bytes());
                    let Stage::Carrying(mut c) = core::mem::replace(&mut self.stage, Stage::Over) else {
                        return Err(DropReason::Unexpected);
                    };
                    return Ok(Some(c.answer.take_whole()));
                }
            }
            Control::Close => {
                self.stage = Stage::Outside;
                self.again_at = now + self.wait;
            }
            Control::Keepalive => {}
            Control::Probe(_)
            | Control::ProbeReply(_)
            | Control::RekeyInitiation(_)
            | Control::RekeyResponse(_)
            | Control::RekeyOffer(..)
            | Control::RekeyAnswer(..)
            | Control::RekeyConfirm(..)
            | Control::DifferenceRequest(..)
            | Control::Difference { .. }
            | Control::Statement(_) => return Err(DropReason::Unexpected),
        }
        Ok(None)
    }

    /// Sends pieces of the request that may go.
    fn carry(&mut self, now: Instant) {
        let Stage::Carrying(c) = &mut self.stage else { return };
        let mut pieces = Vec::new();
        c.request.send(now, |text| pieces.push(text.to_vec()));
        for text in pieces {
            self.say(&text);
        }
    }

    /// Says a control frame in the session.
    fn say(&mut self, text: &[u8]) {
        let salt = self.entropy.salt();
        let Stage::Carrying(c) = &mut self.stage else { return };
        if let Some(bytes) = seal_control(&mut c.session, salt, text) {
            self.transmit(bytes);
        }
    }

    fn transmit(&mut self, bytes: Vec<u8>) {
        let to = self.at().endpoint;
        self.out.push_back(Transmit { to, bytes });
    }

    fn progress(&mut self, now: Instant) {
        self.heard = now;
        self.wait = FIRST_WAIT;
        self.back_off(now);
    }

    /// The next wait is longer, with up to a fifth of jitter, so that a thousand machines do not call in step.
    fn back_off(&mut self, now: Instant) {
        let mut random = [0];
        self.entropy.fill(&mut random);
        self.again_at = now + self.wait + self.wait * u32::from(random[0]) / (5 * 256);
        self.wait = (self.wait * 3 / 2).min(LONGEST_WAIT);
    }
}
