//! Round trips that people ask for.

use std::net::IpAddr;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use coterie_api::{Answer, Failure, Reply, node::Pong};
use coterie_model::{Instant, Name};

use super::{Driver, now};
use crate::answers;

/// A person waits for a round trip.
pub(super) struct Waiting {
    destination: IpAddr,
    asked: Instant,
    pub(super) until: Instant,
    had_session: bool,
    /// When the probe could leave: at once, or when the session stood.
    probed: Option<Instant>,
    reply: SyncSender<Reply>,
}

impl Driver {
    pub(super) fn start_ping(
        &mut self,
        to: &str,
        timeout_ms: u64,
        reply: &SyncSender<Reply>,
        now: Instant,
    ) -> Result<(), Failure> {
        let destination = self.resolve(to)?;
        let had_session = self.node.explain(destination, now).installed.is_some();
        let token = self
            .node
            .handle_ping(destination, now)
            .map_err(|reason| answers::failure(reason, to))?;
        let until = now + Duration::from_millis(timeout_ms.clamp(1, 60_000));
        let waiting = Waiting {
            destination,
            asked: now,
            until,
            had_session,
            probed: had_session.then_some(now),
            reply: reply.clone(),
        };
        self.pings.insert(token, waiting);
        Ok(())
    }

    pub(super) fn session_up(&mut self, peer: &Name, leaving: Option<Instant>) {
        let Some(now) = leaving else { return };
        for waiting in self.pings.values_mut().filter(|w| w.probed.is_none()) {
            if self.node.explain(waiting.destination, now).peer.as_ref() == Some(peer) {
                waiting.probed = Some(now);
            }
        }
    }

    pub(super) fn pong(&mut self, token: [u8; 8]) {
        let Some(waiting) = self.pings.remove(&token) else {
            return;
        };
        let now = now();
        let explained = answers::explanation(waiting.destination, &self.node.explain(waiting.destination, now));
        let (Some(member), Some(community)) = (explained.member, explained.installed) else {
            return;
        };
        let probed = waiting.probed.unwrap_or(waiting.asked);
        let handshake = (!waiting.had_session).then(|| millis(probed.since(waiting.asked)));
        let pong = Pong {
            member,
            community,
            rtt_ms: millis(now.since(probed)),
            handshake_ms: handshake,
        };
        let _gone = waiting.reply.try_send(Reply::Ok(Answer::Pong(pong)));
    }

    pub(super) fn end_pings(&mut self, now: Instant) {
        let over: Vec<_> = self
            .pings
            .iter()
            .filter(|(_, w)| w.until <= now)
            .map(|(token, _)| *token)
            .collect();
        for token in over {
            if let Some(waiting) = self.pings.remove(&token) {
                let _gone = waiting.reply.try_send(Reply::Error(Failure {
                    code: "timeout".into(),
                    message: format!("{} did not answer", waiting.destination),
                    remedy: "is coteried running there, and is its endpoint right (`coterie status` shows it)?".into(),
                }));
            }
        }
    }
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}
