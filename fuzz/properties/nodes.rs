//! Three nodes on a wire that an adversary writes the script of: what it may do is everything that needs no key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coterie_model::Unverified;
use coterie_proto::{Config, Node, Outcome, Persist, Update};

use crate::world::{self, Enclave, Flying, HOUR, Wire, inside, others, outside, packet};

/// Members: two of community 1, the third of 1 and 2; it is not in the directory of the first.
const MEMBERS: u8 = 3;
/// What the adversary must never see.
const CANARY: &[u8] = b"canary!!";
/// Steps after which a script is cut.
const MAX_STEPS: usize = 160;

/// A script, read byte by byte; behind its end there are zeros.
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl Script<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.byte()).collect()
    }

    fn member(&mut self) -> u8 {
        self.byte() % MEMBERS + 1
    }
}

/// The world, and what the checkers remember of it.
struct Play {
    enclave: Enclave,
    wire: Wire,
    /// Datagrams that the adversary holds back.
    held: Vec<Flying>,
    sent: u64,
    delivered: BTreeSet<Vec<u8>>,
    /// Who sent under which lane, index and counter: none may come twice, whatever the salt.
    nonces: BTreeSet<(std::net::SocketAddr, [u8; 12])>,
    looked_at: usize,
    revision: u64,
    serial: u64,
    /// The newest statement of a member, by serial and end: its host keeps it.
    statements: BTreeMap<u8, (u64, u64)>,
    /// When the second epoch was planned.
    second_epoch: Option<u64>,
    restarts: u64,
}

/// Whatever happens on the wire: nothing panics; a packet arrives unchanged, from whom it says, at most once; no nonce is
/// used twice under a key; nothing is on the wire in clear; control datagrams are small and memory is bounded; and when
/// the adversary leaves, the nodes find each other again.
pub(crate) fn nodes(data: &[u8]) {
    let enclave = Enclave::new();
    let configs = (1..=MEMBERS).map(|n| (n, config(&enclave, n))).collect();
    let mut play = Play {
        enclave,
        wire: Wire::new(configs),
        held: vec![],
        sent: 0,
        delivered: BTreeSet::new(),
        nonces: BTreeSet::new(),
        looked_at: 0,
        revision: 0,
        serial: 1,
        statements: BTreeMap::new(),
        second_epoch: None,
        restarts: 0,
    };
    let mut script = Script(data);
    for _ in 0..MAX_STEPS {
        if script.0.is_empty() {
            break;
        }
        play.step(&mut script);
        play.check();
    }
    play.recovers();
}

fn config(enclave: &Enclave, n: u8) -> Config {
    let communities: &[u8] = if n == 3 { &[1, 2] } else { &[1] };
    let mut config = enclave.config(n, communities, &others(n, MEMBERS));
    config.may_ask_cookie = n == 3;
    if n == 1 {
        config.update.directory[1].statements.clear();
    }
    config
}

/// The first epoch ends a minute after the second begins.
fn second_epoch(enclave: &Enclave, planned: u64) -> Update {
    Update {
        manifests: vec![
            enclave.manifest(1, 1, 0, planned + 60),
            enclave.manifest(1, 2, planned, planned + 100 * HOUR),
        ],
        keys: vec![Enclave::key(1, 2)],
        ..Update::default()
    }
}

impl Play {
    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 16 {
            0..=2 => {
                let (from, to) = (script.member(), script.member());
                self.send(from, to);
            }
            3 => self.release(script, false),
            4 => self.release(script, true),
            5 => drop(self.take(script)),
            6 => self.mutate(script),
            7 => {
                let now = self.wire.now;
                let length = Duration::from_millis(1 << script.below(20));
                self.pass(length);
                assert!(self.wire.now >= now);
            }
            8 => self.inject(script),
            9 => self.replay(script),
            10 => self.roam(script),
            11 => self.update(script),
            12 => self.restart(script),
            13 => {
                let (from, to) = (script.member(), script.member());
                let now = self.wire.now;
                let _pinged = self.wire.host(from).node.handle_ping(inside(to), now);
                self.collect();
            }
            14 => self.raw_inside(script),
            _ => self.deliver_all(),
        }
    }

    /// Takes what the nodes want to send into the adversary's hands.
    fn collect(&mut self) {
        self.wire.gather();
        self.held.extend(self.wire.take_flying());
        // An adversary that holds back everything holds back too much to be interesting.
        let surplus = self.held.len().saturating_sub(64);
        self.held.drain(..surplus);
    }

    fn hand(&mut self, datagram: &Flying) {
        if let Some(n) = (1..=MEMBERS).find(|n| outside(*n) == datagram.to) {
            self.wire.hand(datagram.from, n, &datagram.bytes);
            self.collect();
        }
    }

    fn send(&mut self, from: u8, to: u8) {
        self.sent += 1;
        let now = self.wire.now;
        let payload = [CANARY, &self.sent.to_be_bytes()].concat();
        let host = self.wire.host(from);
        let outcome = host
            .node
            .handle_inside(&packet(from, to, &payload), now, &mut host.buffers);
        assert!(from != to || matches!(outcome, Outcome::Dropped(_)));
        self.collect();
    }

    fn take(&mut self, script: &mut Script<'_>) -> Option<Flying> {
        if self.held.is_empty() {
            return None;
        }
        let at = script.below(self.held.len());
        Some(self.held.remove(at))
    }

    fn release(&mut self, script: &mut Script<'_>, twice: bool) {
        let Some(datagram) = self.take(script) else { return };
        self.hand(&datagram);
        if twice {
            self.hand(&datagram);
        }
    }

    fn deliver_all(&mut self) {
        for _ in 0..64 {
            if self.held.is_empty() {
                break;
            }
            for datagram in std::mem::take(&mut self.held) {
                self.hand(&datagram);
            }
        }
    }

    fn mutate(&mut self, script: &mut Script<'_>) {
        let Some(mut datagram) = self.take(script) else { return };
        for _ in 0..=script.below(4) {
            let at = (usize::from(script.byte()) << 8 | usize::from(script.byte())) % datagram.bytes.len();
            match script.byte() % 4 {
                0 => datagram.bytes.truncate(at.max(1)),
                1 => datagram.bytes.push(script.byte()),
                2 => datagram.bytes[at] = script.byte(),
                _ => datagram.bytes[at] ^= 1 << (script.byte() % 8),
            }
        }
        self.hand(&datagram);
    }

    fn inject(&mut self, script: &mut Script<'_>) {
        let len = usize::from(script.byte()) * 4;
        let datagram = Flying {
            from: outside(script.byte()),
            to: outside(script.member()),
            bytes: script.bytes(len),
        };
        self.hand(&datagram);
    }

    fn replay(&mut self, script: &mut Script<'_>) {
        let len = self.wire.log.len();
        if len > 0 {
            let at = (usize::from(script.byte()) << 8 | usize::from(script.byte())) % len;
            let datagram = self.wire.log[at].clone();
            self.hand(&datagram);
        }
    }

    fn roam(&mut self, script: &mut Script<'_>) {
        if let Some(mut datagram) = self.take(script) {
            datagram.from = outside(100 + script.byte() % 8);
            self.hand(&datagram);
        }
    }

    fn update(&mut self, script: &mut Script<'_>) {
        let (n, now) = (script.member(), self.wire.now);
        let time = now.since_boot().as_secs();
        let update = match script.byte() % 4 {
            0 => {
                self.revision += 1;
                let list = self.enclave.revocations(self.revision, &[], u16::from(script.byte()));
                self.enclave.update(&list, time)
            }
            1 => {
                self.serial += 1;
                self.statements.insert(n, (self.serial, time + 2 * HOUR));
                Update {
                    statements: vec![self.enclave.statement(n, 1, self.serial, time + 2 * HOUR)],
                    ..Update::default()
                }
            }
            2 => {
                // An epoch is planned for everybody.
                let planned = *self.second_epoch.get_or_insert(time);
                for n in 1..=MEMBERS {
                    let epoch = second_epoch(&self.enclave, planned);
                    self.wire.host(n).node.handle_update(epoch, now);
                }
                Update::default()
            }
            _ => Update {
                revocations: Some(Unverified::parse(self.enclave.revocations(0, &[], 1).bytes()).expect("signed")),
                ..Update::default()
            },
        };
        self.wire.host(n).node.handle_update(update, now);
        self.collect();
    }

    /// Kill and restart: only what was to be stored survives.
    fn restart(&mut self, script: &mut Script<'_>) {
        let n = script.member();
        let now = self.wire.now;
        let mut config = config(&self.enclave, n);
        config.time = coterie_model::UnixTime(now.since_boot().as_secs());
        if let Some((serial, not_after)) = self.statements.get(&n) {
            config.update.statements[0] = self.enclave.statement(n, 1, *serial, *not_after);
        }
        let host = self.wire.host(n);
        let (mut live, mut accepted) = (BTreeMap::new(), BTreeMap::new());
        for record in &host.persisted {
            match record {
                Persist::Counter(counter) => config.counter = *counter,
                Persist::Accepted(key, counter) => drop(accepted.insert(*key, *counter)),
                Persist::Answered(nonce) => config.answered.push(*nonce),
                Persist::Live(key, Some(endpoint)) => drop(live.insert(*key, *endpoint)),
                Persist::Live(key, None) => drop(live.remove(key)),
                Persist::Revocations(list) => {
                    config.update.revocations = Some(Unverified::parse(list.bytes()).expect("signed"));
                }
            }
        }
        config.accepted = accepted.into_iter().collect();
        config.resume = live.into_iter().collect();
        self.restarts += 1;
        let (entropy, drawn) = world::Recording::new(1000 + self.restarts);
        host.node = Node::new(config, entropy, now);
        host.drawn = drawn;
        if let Some(planned) = self.second_epoch {
            host.node.handle_update(second_epoch(&self.enclave, planned), now);
        }
        self.collect();
    }

    /// Anything from a program of the member's own machine.
    fn raw_inside(&mut self, script: &mut Script<'_>) {
        let n = script.member();
        let len = script.below(80);
        let bytes = script.bytes(len);
        let now = self.wire.now;
        let host = self.wire.host(n);
        // A true packet of a program is delivered as it is; one that looks like those of this play would confuse the play.
        if !bytes.windows(CANARY.len()).any(|w| w == CANARY) {
            host.node.handle_inside(&bytes, now, &mut host.buffers);
        }
        self.collect();
    }

    fn pass(&mut self, by: Duration) {
        let end = self.wire.now + by;
        for _ in 0..10_000 {
            let next = self
                .wire
                .hosts
                .iter()
                .filter_map(|h| h.node.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.wire.now = end;
                return;
            };
            self.wire.now = at.max(self.wire.now);
            let now = self.wire.now;
            for host in &mut self.wire.hosts {
                host.node.handle_timeout(now, &mut host.buffers);
                let due = host.node.poll_timeout().is_some_and(|(at, _)| at <= now);
                assert!(!due, "a deadline that was attended to is over");
            }
            self.collect();
        }
        panic!("time does not pass: deadlines follow each other without end");
    }

    fn check(&mut self) {
        for datagram in &self.wire.log[self.looked_at..] {
            let bytes = &datagram.bytes;
            assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY), "in clear");
            assert!(bytes.len() <= 1232, "no packet of this play is large");
            if bytes[0] == 5 {
                let header = [&bytes[..6], &bytes[10..16]]
                    .concat()
                    .try_into()
                    .expect("6 and 6 bytes");
                assert!(self.nonces.insert((datagram.from, header)), "a nonce twice");
            }
        }
        self.looked_at = self.wire.log.len();
        for n in 1..=MEMBERS {
            for packet in self.wire.received(n) {
                // What a node says to its own machine about what it refused is no delivery.
                if packet[9] == 1 {
                    continue;
                }
                assert!(packet[12..15] == [10, 0, 0] && packet[16..20] == [10, 0, 0, n]);
                if packet[20..].starts_with(CANARY) {
                    assert!(self.delivered.insert(packet), "delivered twice");
                }
            }
            assert!(self.wire.host(n).node.waiting() <= 64 * usize::from(MEMBERS));
        }
    }

    /// The adversary leaves; a packet sent soon after arrives.
    fn recovers(&mut self) {
        self.held.clear();
        // Long enough for every half-open handshake and every doubt to end, and for no session's statement.
        if self.wire.now.since_boot() > Duration::from_secs(HOUR / 2) {
            return;
        }
        for _ in 0..30 {
            self.pass_delivering(Duration::from_secs(1));
            let arrived = [(1, 2), (2, 1)].map(|(from, to)| {
                self.send(from, to);
                self.deliver_all();
                self.check();
                let last = packet(from, to, &[CANARY, &self.sent.to_be_bytes()].concat());
                self.delivered.contains(&last)
            });
            if arrived == [true, true] {
                return;
            }
        }
        let now = self.wire.now;
        let report = |h: &world::Host| {
            let status = h.node.status(now);
            format!(
                "\n{} drops {:?}\n{:?}",
                h.n,
                status.counts.drops.iter().collect::<Vec<_>>(),
                status.peers
            )
        };
        let reports: String = self.wire.hosts.iter().map(report).collect();
        panic!("nothing arrives although nothing is lost: {reports}");
    }

    fn pass_delivering(&mut self, by: Duration) {
        for _ in 0..10 {
            self.pass(by / 10);
            self.deliver_all();
        }
    }
}
