//! The way through a door (WIRE section 8).

use std::time::Duration;

use anyhow::Context;
use coterie_control::enrol::{Sealed, Token};
use coterie_crypto::{
    aead::Suite,
    dh::{KeyPair, PublicKey},
};
use coterie_io::{
    poll::{Interest, Poller},
    udp::{RecvBatch, SendBatch, UdpPort},
};
use coterie_model::Instant;
use coterie_proto::{
    bootstrap::{Rendezvous, Visit, Visitor},
    handshake::payload::Suites,
};

use super::ways::{Came, still_trying};
use crate::{
    driver::{now, push, queue},
    entropy::SystemEntropy,
    identity::has_aes,
};

/// Calls after which the log says that nobody answers.
const CALLS: usize = 8;
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A door that lets the machine in and brings no answer has so long.
const LONGEST_VISIT: Duration = Duration::from_secs(60);

/// Visits of one machine, one after the other.
pub(super) struct Visits<'a> {
    udp: UdpPort,
    keys: KeyPair,
    token: &'a Token,
    sealed: &'a Sealed,
    counter: u64,
    /// Calls so far: which door is next.
    calls: usize,
}

impl<'a> Visits<'a> {
    /// Of the machine with `keys`, by `udp`.
    pub(super) fn new(udp: UdpPort, keys: KeyPair, token: &'a Token, sealed: &'a Sealed) -> Self {
        Self {
            udp,
            keys,
            token,
            sealed,
            // These keys were never used before.
            counter: 1,
            calls: 0,
        }
    }

    /// Calls at the doors in turn, but for those of `without`, until one brings an answer or the time is over. A machine that was
    /// let in by then waits on for a while.
    pub(super) fn call(&mut self, without: &[PublicKey], until: Option<Instant>) -> anyhow::Result<Came> {
        let doors = self
            .token
            .doors
            .iter()
            .filter(|door| !without.contains(&door.static_key));
        let mut rendezvous: Vec<Rendezvous> = doors
            .map(|door| Rendezvous {
                endpoint: door.endpoint,
                static_key: door.static_key,
                knock: self.token.knock_key(&door.static_key),
            })
            .collect();
        if rendezvous.is_empty() {
            return Ok(Came::Nothing);
        }
        let next = self.calls % rendezvous.len();
        rendezvous.rotate_left(next);
        let preferred = if has_aes() {
            Suite::Aes256Gcm
        } else {
            Suite::ChaCha20Poly1305
        };
        let visit = Visit {
            keys: KeyPair::from_private(self.keys.private().duplicate()),
            rendezvous,
            suites: (Suites::new(&Suite::ALL).expect("three suites"), preferred),
            request: self.sealed.bytes.clone(),
            counter: self.counter,
        };
        let mut visitor = Visitor::new(visit, Box::new(SystemEntropy), now());
        let came = carry(&self.udp, &mut visitor, until);
        self.counter = visitor.counter();
        self.calls += visitor.calls();
        came
    }
}

/// Carries a visit to its end.
fn carry(udp: &UdpPort, visitor: &mut Visitor, until: Option<Instant>) -> anyhow::Result<Came> {
    let mut poller = Poller::new().context("cannot make a poller")?;
    poller
        .add(udp, 1, Interest::Read)
        .context("cannot watch the outside port")?;
    let (mut arrivals, mut out) = (RecvBatch::new(32, 2048), SendBatch::new(64 * 1024));
    let (mut said, mut let_in) = (0, None);
    loop {
        let at = now();
        let_in = visitor.is_let_in().then(|| let_in.unwrap_or(at));
        let is_stuck = let_in.is_some_and(|since| at.since(since) >= LONGEST_VISIT);
        let is_over = until.is_some_and(|until| until <= at);
        if is_stuck || let_in.is_none() && is_over {
            return Ok(Came::Nothing);
        }
        if visitor.poll_timeout().is_some_and(|due| due <= at) {
            visitor.handle_timeout(at);
        }
        flush(visitor, udp, &mut out);
        if visitor.calls() >= said + CALLS {
            said = visitor.calls();
            tracing::warn!(
                door = %visitor.at().endpoint,
                "no door lets this machine in yet; is the token alive, and UDP not blocked?"
            );
            still_trying();
        }
        let due = [visitor.poll_timeout(), until.filter(|until| *until > at)];
        let wait = due.into_iter().flatten().map(|due| due.since(now())).min();
        let wait = wait.unwrap_or(LONGEST_WAIT).max(Duration::from_millis(1));
        if poller.wait(Some(wait)).context("cannot wait for packets")?.is_empty() {
            continue;
        }
        udp.recv(&mut arrivals).context("cannot receive")?;
        for (_from, datagram) in arrivals.datagrams_mut() {
            if let (_, Some(answer)) = visitor.handle_outside(datagram, now()) {
                flush(visitor, udp, &mut out);
                return Ok(Came::Answer(answer, Some(visitor.at().static_key)));
            }
        }
        arrivals.clear();
    }
}

fn flush(visitor: &mut Visitor, udp: &UdpPort, out: &mut SendBatch) {
    while let Some(transmit) = visitor.poll_transmit() {
        queue(udp, out, &transmit);
    }
    push(udp, out);
}
