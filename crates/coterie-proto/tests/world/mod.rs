//! An enclave, its nodes and one wire between them that loses nothing and takes no time, for tests of whole nodes.

pub(crate) mod attacker;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use coterie_crypto::{Entropy, Secret, SeededEntropy, aead::Suite, dh::KeyPair, sign::SigningKey};
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, EnclaveId, EpochKey, EpochKind, Head, Instant, Manifest, MemberId, Name,
    Prefix, Revocation, Revocations, Signed, Statement, UnixTime, Unverified, commitment, signed::head_hash,
};
use coterie_proto::{
    Config, DropReason, Event, Node, Outcome, Persist, Ports, Update, handshake::payload::Suites, membership::Freshness,
};

pub(crate) const HOUR: u64 = 3600;

/// Signs for the enclave of the tests.
pub(crate) struct Enclave {
    pub(crate) signer: SigningKey,
    pub(crate) id: EnclaveId,
    /// Statements are as long as they can be.
    pub(crate) long: bool,
}

impl Enclave {
    pub(crate) fn new() -> Self {
        Self {
            signer: SigningKey::from_seed(Secret::new([9; 32])),
            id: EnclaveId([7; 16]),
            long: false,
        }
    }

    pub(crate) fn key(community: u8, epoch: u8) -> EpochKey {
        EpochKey {
            tag: CommunityTag([community; 16]),
            epoch: u64::from(epoch),
            key: Secret::new([community ^ (epoch << 4); 32]),
        }
    }

    pub(crate) fn manifest(&self, community: u8, epoch: u8, activates: u64, retires: u64) -> Signed<Manifest> {
        let key = Self::key(community, epoch);
        let manifest = Manifest {
            era: 1,
            enclave: self.id,
            tag: key.tag,
            name: Name::new(&format!("c{community}")).unwrap(),
            priority: 100,
            epoch: key.epoch,
            commitment: commitment(key.tag, key.epoch, &key.key),
            activates: UnixTime(activates),
            retires: UnixTime(retires),
            kind: EpochKind::Scheduled,
            holders: 2,
        };
        Signed::sign(manifest, &self.signer)
    }

    pub(crate) fn statement(&self, n: u8, community: u8, serial: u64, not_after: u64) -> Signed<Statement> {
        let more = (0..15u16).map(|i| Prefix::new(IpAddr::from([0xfd00, u16::from(n), i, 0, 0, 0, 0, 0]), 48 + 16));
        let statement = Statement {
            era: 1,
            enclave: self.id,
            tag: CommunityTag([community; 16]),
            member: MemberId([n; 16]),
            name: self.name(n),
            static_key: *keys(n).public(),
            addresses: [Prefix::host(inside(n))]
                .into_iter()
                .chain(more.take(if self.long { 15 } else { 0 }))
                .map(Option::unwrap)
                .collect(),
            serial,
            not_after: UnixTime(not_after),
        };
        Signed::sign(statement, &self.signer)
    }

    pub(crate) fn authority(&self) -> Signed<Authority> {
        let authority = Authority {
            era: 1,
            enclave: self.id,
            name: Name::new("shop").unwrap(),
            statement_key: self.signer.verifying_key(),
            not_after: UnixTime(1_000_000),
        };
        Signed::sign(authority, &self.signer)
    }

    /// A list with `members` and what fills it up to `len`.
    pub(crate) fn revocations(&self, revision: u64, members: &[u8], len: u16) -> Signed<Revocations> {
        let mut entries: Vec<Revocation> = members
            .iter()
            .map(|n| Revocation {
                member: MemberId([*n; 16]),
                static_key: *keys(*n).public(),
                until: UnixTime(HOUR),
            })
            .chain((0..len).map(|i| {
                let mut static_key = [0xee; 32];
                static_key[..2].copy_from_slice(&i.to_be_bytes());
                Revocation {
                    member: MemberId([0xee; 16]),
                    static_key,
                    until: UnixTime(HOUR),
                }
            }))
            .collect();
        entries.sort_by_key(|e| e.static_key);
        let list = Revocations {
            era: 1,
            enclave: self.id,
            revision,
            entries,
        };
        Signed::sign(list, &self.signer)
    }

    pub(crate) fn head(&self, list: &Signed<Revocations>, time: u64) -> Signed<Head> {
        let head = Head {
            era: 1,
            enclave: self.id,
            revision: list.revision,
            time: UnixTime(time),
            hash: head_hash(list),
        };
        Signed::sign(head, &self.signer)
    }

    /// What brings a node up to `list`.
    pub(crate) fn update(&self, list: &Signed<Revocations>, time: u64) -> Update {
        Update {
            revocations: Some(Unverified::parse(list.bytes()).unwrap()),
            head: Some(Unverified::parse(self.head(list, time).bytes()).unwrap()),
            ..Update::default()
        }
    }

    pub(crate) fn name(&self, n: u8) -> Name {
        let mut text = format!("m{n}");
        if self.long {
            text.push_str(&"x".repeat(63 - text.len()));
        }
        Name::new(&text).unwrap()
    }

    pub(crate) fn entry(&self, n: u8, communities: &[u8]) -> DirectoryEntry {
        DirectoryEntry {
            name: self.name(n),
            communities: communities.iter().map(|c| CommunityTag([*c; 16])).collect(),
            addresses: vec![Prefix::host(inside(n)).unwrap()],
            endpoints: vec![outside(n)],
            statements: communities.iter().map(|c| self.statement(n, *c, 1, HOUR)).collect(),
        }
    }

    /// Member `n` of `communities`, which knows `others`.
    pub(crate) fn config(&self, n: u8, communities: &[u8], others: &[u8]) -> Config {
        Config {
            keys: keys(n),
            name: self.name(n),
            authority: self.authority(),
            freshness: Freshness::Offline,
            time: UnixTime(0),
            suites: Suites::new(&Suite::ALL).unwrap(),
            preferred: Suite::Aes256Gcm,
            lanes: 1,
            exclude: vec![],
            roaming: true,
            may_ask_cookie: false,
            port: 4747,
            update: Update {
                manifests: communities
                    .iter()
                    .map(|c| self.manifest(*c, 1, 0, 100 * HOUR))
                    .collect(),
                keys: communities.iter().map(|c| Self::key(*c, 1)).collect(),
                statements: communities.iter().map(|c| self.statement(n, *c, 1, HOUR)).collect(),
                directory: others.iter().map(|m| self.entry(*m, communities)).collect(),
                ..Update::default()
            },
            counter: 1,
            accepted: vec![],
            answered: vec![],
            resume: vec![],
        }
    }
}

pub(crate) fn keys(n: u8) -> KeyPair {
    KeyPair::from_private(Secret::new([n; 32]))
}

pub(crate) fn inside(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

pub(crate) fn outside(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 4747))
}

/// An IPv4 packet of protocol 253 (RFC 3692).
pub(crate) fn packet(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut p = vec![
        0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, from, 10, 0, 0, to,
    ];
    p.extend_from_slice(payload);
    p
}

/// Random bytes of a seed; tells everything that it gave.
pub(crate) struct Recording {
    source: SeededEntropy,
    given: Sender<Vec<u8>>,
}

impl Recording {
    pub(crate) fn new(seed: u64) -> (Box<Self>, Receiver<Vec<u8>>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "outside of the core: the test hears what the node draws"
        )]
        let (given, taken) = channel();
        let source = SeededEntropy::from_number(seed);
        (Box::new(Self { source, given }), taken)
    }
}

impl Entropy for Recording {
    fn fill(&mut self, out: &mut [u8]) {
        self.source.fill(out);
        // A node may outlive the interest in it.
        let _unheard = self.given.send(out.to_vec());
    }
}

/// What a node handed to its host.
#[derive(Default)]
pub(crate) struct Buffers {
    pub(crate) out: Vec<(SocketAddr, Vec<u8>)>,
    pub(crate) inside: Vec<Vec<u8>>,
}

impl Ports for Buffers {
    fn outside(&mut self, to: SocketAddr, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let mut bytes = vec![0; len];
        if fill(&mut bytes) {
            self.out.push((to, bytes));
        }
    }

    fn inside(&mut self, packet: &[u8]) {
        self.inside.push(packet.to_vec());
    }
}

/// A node and its host.
pub(crate) struct Host {
    pub(crate) n: u8,
    pub(crate) node: Node,
    pub(crate) buffers: Buffers,
    pub(crate) persisted: Vec<Persist>,
    pub(crate) events: Vec<Event>,
    /// What the node drew, in order.
    pub(crate) drawn: Receiver<Vec<u8>>,
}

/// A datagram on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flying {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// What becomes of a datagram on its way: it may be changed, and is lost on `false`.
pub(crate) type Path = Box<dyn FnMut(&mut Flying) -> bool>;

pub(crate) struct Wire {
    pub(crate) now: Instant,
    pub(crate) hosts: Vec<Host>,
    /// Everything that was sent, as it was sent.
    pub(crate) log: Vec<Flying>,
    pub(crate) path: Path,
    flying: VecDeque<Flying>,
}

impl Wire {
    pub(crate) fn new(configs: Vec<(u8, Config)>) -> Self {
        let now = Instant::ZERO;
        let host = |(n, config)| {
            let (entropy, drawn) = Recording::new(u64::from(n));
            Host {
                n,
                node: Node::new(config, entropy, now),
                buffers: Buffers::default(),
                persisted: vec![],
                events: vec![],
                drawn,
            }
        };
        Self {
            now,
            hosts: configs.into_iter().map(host).collect(),
            log: vec![],
            path: Box::new(|_| true),
            flying: VecDeque::new(),
        }
    }

    /// Members 1 to `n` of community 1, who know each other.
    pub(crate) fn of(enclave: &Enclave, n: u8) -> Self {
        Self::new((1..=n).map(|m| (m, enclave.config(m, &[1], &others(m, n)))).collect())
    }

    pub(crate) fn host(&mut self, n: u8) -> &mut Host {
        self.hosts.iter_mut().find(|h| h.n == n).unwrap()
    }

    /// A packet from a member's machine to another's, and everything that follows at once.
    pub(crate) fn send(&mut self, from: u8, to: u8, payload: &[u8]) -> Outcome {
        let now = self.now;
        let host = self.host(from);
        let outcome = host
            .node
            .handle_inside(&packet(from, to, payload), now, &mut host.buffers);
        self.settle();
        outcome
    }

    /// A datagram that no node sent; what it causes is sent.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: u8, bytes: &[u8]) -> Outcome {
        let outcome = self.hand(from, to, bytes);
        self.settle();
        outcome
    }

    /// A datagram that no node sent; what it causes stays in the node.
    pub(crate) fn hand(&mut self, from: SocketAddr, to: u8, bytes: &[u8]) -> Outcome {
        let now = self.now;
        let host = self.host(to);
        host.node
            .handle_outside(&mut bytes.to_vec(), from, now, &mut host.buffers)
    }

    /// Takes out of the nodes what they want to send, and puts it on the wire.
    pub(crate) fn gather(&mut self) {
        for host in &mut self.hosts {
            host.persisted.extend(std::iter::from_fn(|| host.node.poll_persist()));
            host.events.extend(std::iter::from_fn(|| host.node.poll_event()));
            let from = outside(host.n);
            let control = std::iter::from_fn(|| host.node.poll_transmit()).map(|t| (t.to, t.bytes));
            let all: Vec<_> = control.chain(host.buffers.out.drain(..)).collect();
            for (to, bytes) in all {
                let datagram = Flying { from, to, bytes };
                self.log.push(datagram.clone());
                self.flying.push_back(datagram);
            }
        }
    }

    /// Takes everything off the wire.
    pub(crate) fn take_flying(&mut self) -> Vec<Flying> {
        self.flying.drain(..).collect()
    }

    pub(crate) fn settle(&mut self) {
        loop {
            self.gather();
            let Some(mut datagram) = self.flying.pop_front() else {
                return;
            };
            if !(self.path)(&mut datagram) {
                continue;
            }
            let now = self.now;
            if let Some(host) = self.hosts.iter_mut().find(|h| outside(h.n) == datagram.to) {
                host.node
                    .handle_outside(&mut datagram.bytes, datagram.from, now, &mut host.buffers);
            }
        }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let next = self
                .hosts
                .iter()
                .filter_map(|h| h.node.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = at.max(self.now);
            for host in &mut self.hosts {
                host.node.handle_timeout(self.now, &mut host.buffers);
            }
            self.settle();
        }
        self.now = end;
    }

    pub(crate) fn received(&mut self, n: u8) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.host(n).buffers.inside)
    }

    pub(crate) fn has_session(&mut self, n: u8, with: u8) -> bool {
        let now = self.now;
        let address = Prefix::host(inside(with)).unwrap();
        let status = self.host(n).node.status(now);
        status
            .peers
            .iter()
            .any(|p| p.addresses.contains(&address) && p.session.is_some())
    }

    pub(crate) fn drops(&mut self, n: u8, reason: DropReason) -> u64 {
        self.host(n).node.counts().drops.get(reason)
    }

    /// What an observer of member `n` sees of it, without the counts of what it dropped.
    pub(crate) fn observed(&mut self, n: u8) -> String {
        let now = self.now;
        let host = self.host(n);
        let mut status = host.node.status(now);
        status.counts.drops = coterie_proto::drop::DropCounts::default();
        format!("{status:?} {:?} {}", host.node.poll_timeout(), host.node.waiting())
    }
}

pub(crate) fn others(n: u8, of: u8) -> Vec<u8> {
    (1..=of).filter(|m| *m != n).collect()
}
