//! The loop: batches from the inside and the outside through the core and back out, until somebody says stop.
//!
//! Order within a turn: records are stored before anything is sent (`Driver::flush`), so that no counter can be used twice,
//! whatever happens next.

mod pings;
mod served;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::Context;
use coterie_api::{Answer, Failure, Reply, Request};
use coterie_io::{
    clock,
    generation::{Generation, Paths},
    lockdown::Lockdown,
    poll::{Interest, Poller},
    tun::{PacketBatch, Tun},
    udp::{RecvBatch, SendBatch, UdpPort},
};
use coterie_model::{Instant, Name};
use coterie_proto::{Event, Node, Persist, Ports, node::Transmit};
use sd_notify::NotifyState;

use crate::{
    answers::{self, Surroundings},
    follow::Renewed,
    journal::Journal,
    metrics,
    requests::{Asked, Requests},
    service::notify,
};
use pings::Waiting;
pub use served::{Own, Serving};
use served::{Purpose, Served, alarm_name};

const TUN_KEY: u64 = 1;
const UDP_KEY: u64 = 2;
const WAKE_KEY: u64 = 3;
/// Datagrams of a receive batch, and bytes of each: the largest datagram on a jumbo path.
const RECV_SLOTS: usize = 32;
const RECV_BYTES: usize = 9216;
/// Bytes of a send batch.
const SEND_BYTES: usize = 256 * 1024;
/// How often the machine's generation and the lockdown are looked at when nothing else happens.
const IDLE_TICK: Duration = Duration::from_secs(5);
/// How often the generation is looked at under load.
const GENERATION_EVERY: Duration = Duration::from_millis(100);

/// Everything that the loop owns.
pub struct Driver {
    /// The core.
    pub node: Node,
    /// The inside.
    pub tun: Tun,
    /// The outside.
    pub udp: UdpPort,
    /// What must survive.
    pub journal: Journal,
    /// Lockdown, if it is wanted.
    pub lockdown: Option<Lockdown>,
    /// UDP port outside, for status.
    pub port: u16,
    /// How the identity came, for status.
    pub identity: &'static str,
    requests: Requests,
    poller: Poller,
    generation: Generation,
    generation_seen: Instant,
    started: Instant,
    packets: PacketBatch,
    arrivals: RecvBatch,
    out: SendBatch,
    pings: BTreeMap<[u8; 8], Waiting>,
    served: Served,
    lockdown_state: String,
    lockdown_checked: Option<Instant>,
    /// When the service manager was last told that this loop turns.
    watched: Option<Instant>,
}

/// What a driver is made from.
pub struct Parts {
    /// The core.
    pub node: Node,
    /// The inside, and the largest packet that it carries.
    pub inside: (Tun, u16),
    /// The outside.
    pub udp: UdpPort,
    /// What must survive.
    pub journal: Journal,
    /// Lockdown, in force.
    pub lockdown: Option<Lockdown>,
    /// UDP port outside.
    pub port: u16,
    /// How the identity came.
    pub identity: &'static str,
    /// People and signals.
    pub requests: Requests,
    /// What a server needs to be followed, and a door to be one.
    pub serving: Serving,
}

/// Why the loop ended a turn with something to do outside of it.
pub enum Left {
    /// The bundle is to be read again; who asked, unless it was a signal, waits to hear what came of it.
    Reload(Option<SyncSender<Reply>>),
    /// The server gave a bundle.
    Renewed(Box<Renewed>),
    /// The machine was forked, or is no member any more, and something lets it in again.
    Anew,
    /// Stop.
    Stop,
}

struct Buffers<'a> {
    out: &'a mut SendBatch,
    udp: &'a UdpPort,
    tun: &'a mut Tun,
}

impl Ports for Buffers<'_> {
    fn outside(&mut self, to: SocketAddr, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        if self.out.room() < len {
            push(self.udp, self.out);
        }
        let Some(mut room) = self.out.reserve(to, len) else {
            return;
        };
        if fill(&mut room) {
            room.commit();
        }
    }

    fn inside(&mut self, packet: &[u8]) {
        // A full or downed inside interface drops what comes, as any interface does.
        if let Err(error) = self.tun.send(packet) {
            tracing::trace!(%error, "inside interface took no packet");
        }
    }
}

/// Sends a batch. What a full socket leaves over is dropped: a queue here would only be a longer one.
pub(crate) fn push(udp: &UdpPort, out: &mut SendBatch) {
    if out.is_empty() {
        return;
    }
    let outcome = udp.send(out);
    if outcome.unsent > 0 || outcome.failed.total() > 0 {
        tracing::trace!(
            unsent = outcome.unsent,
            failed = outcome.failed.total(),
            "datagrams not sent"
        );
    }
    out.clear();
}

/// Puts a datagram into the batch.
pub(crate) fn queue(udp: &UdpPort, out: &mut SendBatch, transmit: &Transmit) {
    if out.room() < transmit.bytes.len() {
        push(udp, out);
    }
    if let Some(mut room) = out.reserve(transmit.to, transmit.bytes.len()) {
        room.copy_from_slice(&transmit.bytes);
        room.commit();
    }
}

impl Driver {
    /// Joins the parts.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new(parts: Parts) -> anyhow::Result<Self> {
        let poller = Poller::new().context("cannot make a poller")?;
        let (tun, mtu) = parts.inside;
        poller
            .add(&tun, TUN_KEY, Interest::Read)
            .context("cannot watch the inside interface")?;
        poller
            .add(&parts.udp, UDP_KEY, Interest::Read)
            .context("cannot watch the outside port")?;
        poller
            .add(parts.requests.waker(), WAKE_KEY, Interest::Read)
            .context("cannot watch for requests")?;
        let started = now();
        Ok(Self {
            node: parts.node,
            tun,
            udp: parts.udp,
            journal: parts.journal,
            lockdown: parts.lockdown,
            port: parts.port,
            identity: parts.identity,
            requests: parts.requests,
            poller,
            generation: Generation::open(&Paths::system()).context("cannot watch the machine's generation")?,
            generation_seen: started,
            started,
            packets: PacketBatch::new(usize::from(mtu)),
            arrivals: RecvBatch::new(RECV_SLOTS, RECV_BYTES),
            out: SendBatch::new(SEND_BYTES),
            pings: BTreeMap::new(),
            served: Served::new(parts.serving),
            lockdown_state: "off".into(),
            lockdown_checked: None,
            watched: None,
        })
    }

    /// Runs until somebody asks for what the loop cannot do itself.
    ///
    /// # Errors
    /// When an interface is gone or the journal cannot be written: going on would break a promise.
    pub fn run(&mut self) -> anyhow::Result<Left> {
        loop {
            self.flush()?;
            let timeout = self.timeout();
            let ready: (bool, bool, bool) = {
                let ready = self.poller.wait(Some(timeout)).context("cannot wait for packets")?;
                let has = |key| ready.iter().any(|r| r.key == key && r.readable);
                (has(TUN_KEY), has(UDP_KEY), has(WAKE_KEY))
            };
            let now = now();
            self.watch_generation(now)?;
            if self.lockdown_checked.is_none_or(|at| now.since(at) >= IDLE_TICK) {
                self.check_lockdown(now);
            }
            if self.may_return(now) {
                return Ok(Left::Anew);
            }
            if self.watched.is_none_or(|at| now.since(at) >= IDLE_TICK / 2) {
                self.watched = Some(now);
                notify(&[NotifyState::Watchdog]);
            }
            self.node.begin_batch();
            if ready.0 {
                self.take_inside(now)?;
            }
            if ready.1 {
                self.take_outside(now)?;
            }
            if self.node.poll_timeout().is_some_and(|(at, _)| at <= now) {
                let mut ports = Buffers {
                    out: &mut self.out,
                    udp: &self.udp,
                    tun: &mut self.tun,
                };
                self.node.handle_timeout(now, &mut ports);
            }
            self.end_pings(now);
            self.attend_served(now);
            if ready.2 {
                self.requests.waker().drain();
            }
            if let Some(left) = self.take_requests(now)? {
                self.flush()?;
                return Ok(left);
            }
        }
    }

    /// What people, signals and the server ask and say. Of the server's words one a turn: packets come between.
    fn take_requests(&mut self, now: Instant) -> anyhow::Result<Option<Left>> {
        while let Some(asked) = self.requests.next() {
            match asked {
                Asked::Request(request, reply) => {
                    if let Some(left) = self.answer(request, reply, now) {
                        return Ok(Some(left));
                    }
                }
                Asked::Reload => return Ok(Some(Left::Reload(None))),
                Asked::Stop => return Ok(Some(Left::Stop)),
                Asked::Told(told) => {
                    let left = self.take_told(told, now)?;
                    // More may wait, for which nobody wakes the loop again.
                    self.requests.waker().wake();
                    return Ok(left);
                }
            }
        }
        Ok(None)
    }

    /// Another core takes over from one that was shut down, with another journal where it has other keys, and at another port
    /// where one was opened.
    ///
    /// # Errors
    /// When the port cannot be watched.
    pub fn take_over(
        &mut self,
        journal: Option<Journal>,
        udp: Option<UdpPort>,
        make: impl FnOnce(&Journal) -> Node,
    ) -> anyhow::Result<()> {
        if let Some(journal) = journal {
            self.journal = journal;
        }
        if let Some(udp) = udp {
            self.poller
                .remove(&self.udp)
                .and_then(|()| self.poller.add(&udp, UDP_KEY, Interest::Read))
                .context("cannot watch the outside port")?;
            self.port = udp.local_address()?.port();
            self.udp = udp;
        }
        self.node = make(&self.journal);
        Ok(())
    }

    /// Ends every session, telling the peers.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn shut_down(&mut self) -> anyhow::Result<()> {
        self.node.shut_down();
        self.flush()
    }

    fn take_inside(&mut self, now: Instant) -> anyhow::Result<()> {
        // Bounded, so that a program that sends faster than we seal cannot keep the loop from everything else.
        for _ in 0..8 {
            if self
                .tun
                .recv(&mut self.packets)
                .context("the inside interface is gone")?
                == 0
            {
                break;
            }
            self.node.begin_batch();
            for packet in self.packets.packets_mut() {
                let mut ports = Buffers {
                    out: &mut self.out,
                    udp: &self.udp,
                    tun: &mut self.tun,
                };
                let _counted = self.node.handle_inside(packet.bytes(), now, &mut ports);
            }
            let full = self.packets.len() >= RECV_SLOTS;
            self.flush()?;
            if !full {
                break;
            }
        }
        Ok(())
    }

    fn take_outside(&mut self, now: Instant) -> anyhow::Result<()> {
        // Bounded, so that a flood from outside cannot starve the inside.
        for _ in 0..8 {
            let got = self.udp.recv(&mut self.arrivals).context("the outside port is gone")?;
            for (from, datagram) in self.arrivals.datagrams_mut() {
                if self.served.take_at_door(&mut self.node, datagram, from, now) {
                    continue;
                }
                let mut ports = Buffers {
                    out: &mut self.out,
                    udp: &self.udp,
                    tun: &mut self.tun,
                };
                let _counted = self.node.handle_outside(datagram, from, now, &mut ports);
            }
            self.flush()?;
            if got < RECV_SLOTS {
                break;
            }
        }
        Ok(())
    }

    /// Records first, then datagrams, then news.
    fn flush(&mut self) -> anyhow::Result<()> {
        // Probes of people leave with what follows; the peer may have answered before this call is over.
        let leaving = (!self.pings.is_empty()).then(now);
        while let Some(record) = self.node.poll_persist() {
            let written = self.journal.write(&record);
            match record {
                // Nothing that is sent depends on it: a full disk must not end the node over a revocation.
                Persist::Revocations(_) => {
                    if let Err(error) = written {
                        tracing::warn!(%error, "revocations could not be kept; they are learnt again after a restart");
                    }
                    self.notice_refusal();
                }
                Persist::Counter(_) | Persist::Accepted(..) | Persist::Answered(_) | Persist::Live(..) => {
                    written.context("cannot write the journal; nothing is sent that it does not know of")?;
                }
            }
        }
        self.flush_door()?;
        while let Some(transmit) = self.node.poll_transmit() {
            queue(&self.udp, &mut self.out, &transmit);
        }
        push(&self.udp, &mut self.out);
        self.ask_for_wanted();
        self.say_applied();
        while let Some(event) = self.node.poll_event() {
            self.tell(event, leaving);
        }
        Ok(())
    }

    fn tell(&mut self, event: Event, leaving: Option<Instant>) {
        match event {
            Event::SessionUp { peer, epoch, rekey, .. } => {
                tracing::info!(%peer, epoch, rekey, "session up");
                self.session_up(&peer, leaving);
            }
            Event::SessionDown(peer) => tracing::info!(%peer, "session down"),
            Event::NoAnswer(peer) => tracing::info!(%peer, "no answer"),
            Event::Moved(peer, to) => {
                tracing::info!(%peer, "peer moved");
                tracing::debug!(%to, "new outside address");
            }
            Event::Alarm(alarm) => {
                tracing::warn!(?alarm, "alarm");
                self.served.count_alarm(alarm_name(&alarm));
            }
            Event::Pong(token) => self.pong(token),
        }
    }

    fn timeout(&self) -> Duration {
        let now = now();
        let core = self.node.poll_timeout().map(|(at, _)| at.since(now));
        let ping = self.pings.values().map(|p| p.until.since(now)).min();
        let served = self.served.due().map(|at| at.since(now));
        // A millisecond is the poller's grain: waking earlier would only wake again.
        [core, ping, served]
            .into_iter()
            .flatten()
            .fold(IDLE_TICK, Duration::min)
            .max(Duration::from_millis(1))
    }

    fn watch_generation(&mut self, now: Instant) -> anyhow::Result<()> {
        if now.since(self.generation_seen) < GENERATION_EVERY {
            return Ok(());
        }
        self.generation_seen = now;
        // A source that cannot be read any more may hide a change.
        if self.generation.changed().unwrap_or(true) {
            self.journal
                .mark_forked()
                .context("cannot write the journal; a forked machine must not come back")?;
            self.node.handle_fork();
            self.forget_keys();
        }
        Ok(())
    }

    /// Answers, or says what has to happen outside of the loop.
    fn answer(&mut self, request: Request, reply: SyncSender<Reply>, now: Instant) -> Option<Left> {
        let answer = match request {
            Request::Status => Reply::Ok(Answer::Status(Box::new(self.status(now)))),
            Request::Metrics => Reply::Ok(Answer::Metrics(metrics::text(self.status(now)))),
            Request::Explain { destination } => {
                self.ask_for(destination, Purpose::Explain(reply), now);
                return None;
            }
            Request::Ping {
                destination,
                timeout_ms,
            } => {
                self.ask_for(destination, Purpose::Ping { timeout_ms, reply }, now);
                return None;
            }
            Request::Leave => {
                self.say_bye(reply);
                return None;
            }
            Request::Reload => return Some(Left::Reload(Some(reply))),
            Request::Unlock => match self.unlock() {
                Ok(()) => Reply::Ok(Answer::Done),
                Err(error) => Reply::Error(Failure {
                    code: "lockdown".into(),
                    message: format!("lockdown could not be taken away: {error}"),
                    remedy: "look at `nft list tables` and `ip rule`".into(),
                }),
            },
            Request::Down => {
                let _gone = reply.try_send(Reply::Ok(Answer::Done));
                return Some(Left::Stop);
            }
        };
        // Who asked may have gone.
        let _gone = reply.try_send(answer);
        None
    }

    fn status(&mut self, now: Instant) -> coterie_api::node::Status {
        self.check_lockdown(now);
        let around = Surroundings {
            interface: self.tun.name(),
            port: self.port,
            uptime: now.since(self.started).as_secs_f64(),
            identity: self.identity,
            lockdown: self.lockdown_state.clone(),
            server: self.served.server(now),
            door: self.served.door(),
            by_token: self.served.by_token(),
            alarms: self.served.alarms(),
        };
        answers::status(&self.node.status(now), &around)
    }

    /// Looks whether lockdown is still in force, at most once a second, and puts it in force again where it is not: an
    /// interface that was taken out and put back is a new one.
    fn check_lockdown(&mut self, now: Instant) {
        let Some(lockdown) = &self.lockdown else { return };
        if self
            .lockdown_checked
            .is_some_and(|at| now.since(at) < Duration::from_secs(1))
        {
            return;
        }
        self.lockdown_checked = Some(now);
        let gaps = |lockdown: &Lockdown| -> std::io::Result<Vec<String>> {
            Ok(lockdown.check()?.into_iter().map(|gap| gap.what).collect())
        };
        let state = match gaps(lockdown) {
            Ok(missing) if missing.is_empty() => Ok(missing),
            Ok(missing) => {
                tracing::warn!(?missing, "lockdown was not whole; loading it again");
                lockdown.install().and_then(|_installed| gaps(lockdown))
            }
            Err(error) => Err(error),
        };
        self.lockdown_state = match state {
            Ok(missing) if missing.is_empty() => "in-force".into(),
            Ok(missing) => format!("incomplete: {}", missing.join("; ")),
            Err(error) => format!("unknown: {error}"),
        };
    }

    /// Opens the machine to clear text, because a person asked for it.
    fn unlock(&mut self) -> std::io::Result<()> {
        if let Some(lockdown) = &self.lockdown {
            lockdown.remove()?;
            tracing::warn!("lockdown taken away on request: clear text is no longer stopped");
        }
        self.lockdown = None;
        self.lockdown_state = "off".into();
        Ok(())
    }

    fn resolve(&self, destination: &str) -> Result<IpAddr, Failure> {
        if let Ok(ip) = destination.parse() {
            return Ok(ip);
        }
        let unknown = || Failure {
            code: "unknown-member".into(),
            message: format!("{destination:?} is neither an address nor a member that this node knows"),
            remedy: "`coterie status` lists the members that this node may know".into(),
        };
        let name = Name::new(destination).map_err(|_not_a_name| unknown())?;
        let prefix = self
            .node
            .addresses_of(&name)
            .and_then(|a| a.first())
            .ok_or_else(unknown)?;
        Ok(prefix.addr())
    }
}

/// Running time of this machine.
#[must_use]
pub fn now() -> Instant {
    Instant::from_boot(clock::boottime())
}
