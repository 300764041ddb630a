//! Nodes side by side on a perfect wire: what a session needs to come about, and what it survives. Everything that needs a
//! bad wire or a bad host is in `coterie-sim`.

use std::collections::VecDeque;
use std::time::Duration;

use coterie_crypto::{Secret, SeededEntropy, sign::SigningKey};
use coterie_model::{CommunityTag, EnclaveId, EpochKind, commitment};

use super::*;

const HOUR: u64 = 3600;

/// An enclave in a nutshell: its signer, and what members are made from.
struct Enclave {
    signer: SigningKey,
    id: EnclaveId,
}

struct Spec<'a> {
    n: u8,
    communities: &'a [u8],
}

impl Enclave {
    fn new() -> Self {
        Self {
            signer: SigningKey::from_seed(Secret::new([9; 32])),
            id: EnclaveId([7; 16]),
        }
    }

    fn key(community: u8, epoch: u64) -> EpochKey {
        let seed = u8::try_from(epoch).unwrap();
        EpochKey {
            tag: CommunityTag([community; 16]),
            epoch,
            key: Secret::new([community ^ (seed << 4); 32]),
        }
    }

    fn manifest(&self, community: u8, epoch: u64, activates: u64, retires: u64) -> Signed<Manifest> {
        let key = Self::key(community, epoch);
        let manifest = Manifest {
            era: 1,
            enclave: self.id,
            tag: key.tag,
            name: Name::new(&format!("c{community}")).unwrap(),
            priority: 100,
            epoch,
            commitment: commitment(key.tag, epoch, &key.key),
            activates: UnixTime(activates),
            retires: UnixTime(retires),
            kind: EpochKind::Scheduled,
            holders: 2,
        };
        Signed::sign(manifest, &self.signer)
    }

    fn statement(&self, n: u8, community: u8, serial: u64, not_after: u64) -> Signed<Statement> {
        let statement = Statement {
            era: 1,
            enclave: self.id,
            tag: CommunityTag([community; 16]),
            member: MemberId([n; 16]),
            name: name(n),
            static_key: *keys(n).public(),
            addresses: vec![Prefix::host(inside(n)).unwrap()],
            serial,
            not_after: UnixTime(not_after),
        };
        Signed::sign(statement, &self.signer)
    }

    fn authority(&self) -> Signed<Authority> {
        let authority = Authority {
            era: 1,
            enclave: self.id,
            name: Name::new("shop").unwrap(),
            statement_key: self.signer.verifying_key(),
            not_after: UnixTime(1_000_000),
        };
        Signed::sign(authority, &self.signer)
    }

    fn node(&self, spec: &Spec<'_>, others: &[Spec<'_>], now: Instant) -> Node {
        self.node_with(spec, others, now, |_| {})
    }

    fn node_with(&self, spec: &Spec<'_>, others: &[Spec<'_>], now: Instant, change: impl Fn(&mut Config)) -> Node {
        let entry = |s: &Spec<'_>| DirectoryEntry {
            name: name(s.n),
            communities: s.communities.iter().map(|c| CommunityTag([*c; 16])).collect(),
            addresses: vec![Prefix::host(inside(s.n)).unwrap()],
            endpoints: vec![outside(s.n)],
            statements: s.communities.iter().map(|c| self.statement(s.n, *c, 1, HOUR)).collect(),
        };
        let mut config = Config {
            keys: keys(spec.n),
            name: name(spec.n),
            authority: self.authority(),
            freshness: Freshness::Offline,
            time: UnixTime(0),
            suites: Suites::new(&Suite::ALL).unwrap(),
            preferred: Suite::Aes256Gcm,
            lanes: 1,
            exclude: vec![],
            roaming: false,
            may_ask_cookie: false,
            port: 4747,
            update: Update {
                manifests: spec
                    .communities
                    .iter()
                    .map(|c| self.manifest(*c, 1, 0, 100 * HOUR))
                    .collect(),
                keys: spec.communities.iter().map(|c| Self::key(*c, 1)).collect(),
                statements: spec
                    .communities
                    .iter()
                    .map(|c| self.statement(spec.n, *c, 1, HOUR))
                    .collect(),
                directory: others.iter().map(entry).collect(),
                revocations: None,
                head: None,
                ..Update::default()
            },
            counter: 1,
            accepted: vec![],
            answered: vec![],
            resume: vec![],
        };
        change(&mut config);
        Node::new(config, Box::new(SeededEntropy::from_number(u64::from(spec.n))), now)
    }
}

fn name(n: u8) -> Name {
    Name::new(&format!("m{n}")).unwrap()
}

fn keys(n: u8) -> KeyPair {
    KeyPair::from_private(Secret::new([n; 32]))
}

fn inside(n: u8) -> std::net::IpAddr {
    std::net::IpAddr::from([10, 0, 0, n])
}

fn outside(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 4747))
}

fn packet(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut p = vec![
        0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, from, 10, 0, 0, to,
    ];
    p.extend_from_slice(payload);
    p
}

#[derive(Default)]
struct Buffers {
    out: Vec<(SocketAddr, Vec<u8>)>,
    inside: Vec<Vec<u8>>,
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

/// Nodes on one wire that loses nothing and takes no time.
struct Wire {
    now: Instant,
    nodes: Vec<(u8, Node, Buffers)>,
    flying: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    log: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    keep: fn(&[u8]) -> bool,
}

impl Wire {
    fn new(nodes: Vec<(u8, Node)>) -> Self {
        Self {
            now: Instant::ZERO,
            nodes: nodes
                .into_iter()
                .map(|(n, node)| (n, node, Buffers::default()))
                .collect(),
            flying: VecDeque::new(),
            log: vec![],
            keep: |_| true,
        }
    }

    fn send(&mut self, from: u8, to: u8, payload: &[u8]) -> Outcome {
        let now = self.now;
        let (_, node, buffers) = self.nodes.iter_mut().find(|(n, ..)| *n == from).unwrap();
        let outcome = node.handle_inside(&packet(from, to, payload), now, buffers);
        self.settle();
        outcome
    }

    fn settle(&mut self) {
        loop {
            for (n, node, buffers) in &mut self.nodes {
                let from = outside(*n);
                let control = std::iter::from_fn(|| node.poll_transmit()).map(|t| (t.to, t.bytes));
                let all: Vec<_> = control.chain(buffers.out.drain(..)).collect();
                self.flying.extend(all.into_iter().map(|(to, bytes)| (from, to, bytes)));
            }
            let Some((from, to, mut bytes)) = self.flying.pop_front() else {
                return;
            };
            assert!(bytes.len() <= 1500);
            self.log.push((from, to, bytes.clone()));
            if !(self.keep)(&bytes) {
                continue;
            }
            if let Some((_, node, buffers)) = self.nodes.iter_mut().find(|(n, ..)| outside(*n) == to) {
                node.handle_outside(&mut bytes, from, self.now, buffers);
            }
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let next = self
                .nodes
                .iter()
                .filter_map(|(_, n, _)| n.poll_timeout())
                .map(|(at, _)| at)
                .min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = at.max(self.now);
            for (_, node, buffers) in &mut self.nodes {
                node.handle_timeout(self.now, buffers);
            }
            self.settle();
        }
        self.now = end;
    }

    fn node(&mut self, n: u8) -> &mut Node {
        &mut self.nodes.iter_mut().find(|(m, ..)| *m == n).unwrap().1
    }

    fn received(&mut self, n: u8) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes.iter_mut().find(|(m, ..)| *m == n).unwrap().2.inside)
    }
}

fn pair(a: &[u8], b: &[u8]) -> Wire {
    let e = Enclave::new();
    let (a, b) = (|| Spec { n: 1, communities: a }, || Spec { n: 2, communities: b });
    Wire::new(vec![
        (1, e.node(&a(), &[b()], Instant::ZERO)),
        (2, e.node(&b(), &[a()], Instant::ZERO)),
    ])
}

#[test]
fn a_packet_makes_its_session_and_arrives() {
    let mut w = pair(&[1], &[1]);
    assert_eq!(w.send(1, 2, b"hello"), Outcome::Queued);
    assert_eq!(w.received(2), [packet(1, 2, b"hello")]);
    assert_eq!(w.send(2, 1, b"back"), Outcome::Sent);
    assert_eq!(w.received(1), [packet(2, 1, b"back")]);
    let kinds: Vec<u8> = w.log.iter().map(|(_, _, b)| b[0]).collect();
    assert_eq!(
        kinds,
        [1, 2, 4, 4, 4, 5, 5, 5, 5],
        "five messages, probe, reply, two packets"
    );
    assert!(w.log.iter().all(|(_, _, b)| !b.windows(5).any(|s| s == b"hello")));
}

#[test]
fn without_a_common_community_the_wire_is_silent_and_the_sender_is_told() {
    let mut w = pair(&[1], &[2]);
    assert_eq!(w.send(1, 2, b"hello"), Outcome::Dropped(DropReason::NoCommonCommunity));
    assert!(w.log.is_empty());
    let icmp = w.received(1);
    assert_eq!(
        (icmp[0][9], icmp[0][20], icmp[0][21]),
        (1, 3, 13),
        "administratively prohibited"
    );
}

#[test]
fn a_session_is_replaced_while_it_carries_and_no_packet_is_lost() {
    let mut w = pair(&[1], &[1]);
    w.send(1, 2, b"first");
    for _ in 0..4000 {
        w.advance(Duration::from_millis(100));
        assert_eq!(w.send(1, 2, b"tick"), Outcome::Sent);
    }
    assert_eq!(w.received(2).len(), 4001);
    assert!(w.node(1).counts().initiated >= 4, "400 s, a rekey each 120");
    assert!(
        w.log.iter().filter(|(_, _, b)| b[0] != 5).count() == 5,
        "only the first contact shows handshakes"
    );
}

#[test]
fn an_idle_session_ends_and_wakes_nobody() {
    let mut w = pair(&[1], &[1]);
    w.send(1, 2, b"one");
    // Used once, it is replaced once; its successor is not used and ends.
    w.advance(Duration::from_secs(310));
    let now = w.now;
    assert!(w.node(1).status(now).peers[0].session.is_none());
    let before = w.log.len();
    w.advance(Duration::from_secs(3000));
    assert_eq!(w.log.len(), before);
}

#[test]
fn both_may_call_at_once() {
    let mut w = pair(&[1], &[1]);
    for from in [1, 2] {
        let now = w.now;
        let (_, node, buffers) = w.nodes.iter_mut().find(|(n, ..)| *n == from).unwrap();
        node.handle_inside(&packet(from, 3 - from, b"both"), now, buffers);
    }
    w.settle();
    w.advance(Duration::from_secs(1));
    assert_eq!(w.received(1), [packet(2, 1, b"both")]);
    assert_eq!(w.received(2), [packet(1, 2, b"both")]);
    assert_eq!(w.node(1).counts().initiated + w.node(2).counts().initiated, 1);
}

#[test]
fn a_replayed_initiation_is_silence_also_after_a_restart() {
    let e = Enclave::new();
    let spec = |n| Spec { n, communities: &[1] };
    let mut w = pair(&[1], &[1]);
    w.send(1, 2, b"one");
    let initiation = w.log[0].2.clone();
    let accepted: Vec<_> = std::iter::from_fn(|| w.node(2).poll_persist())
        .filter_map(|p| match p {
            Persist::Accepted(key, counter) => Some((key, counter)),
            Persist::Counter(_) | Persist::Answered(_) | Persist::Live(..) | Persist::Revocations(_) => None,
        })
        .collect();
    assert_eq!(accepted.len(), 1);
    let now = w.now;
    let mut b = Buffers::default();
    let outcome = w
        .node(2)
        .handle_outside(&mut initiation.clone(), outside(1), now, &mut b);
    assert_eq!(outcome, Outcome::Dropped(DropReason::Replayed));
    let mut restarted = e.node_with(&spec(2), &[spec(1)], now, |c| c.accepted.clone_from(&accepted));
    let outcome = restarted.handle_outside(&mut initiation.clone(), outside(1), now, &mut b);
    assert_eq!(outcome, Outcome::Dropped(DropReason::Replayed));
    assert_eq!(restarted.poll_transmit(), None);
}

#[test]
fn a_restarted_node_calls_its_peers_itself() {
    let e = Enclave::new();
    let spec = |n| Spec { n, communities: &[1] };
    let mut w = pair(&[1], &[1]);
    w.send(1, 2, b"one");
    let counter = w.node(2).reserved;
    let now = w.now;
    let fresh = e.node_with(&spec(2), &[spec(1)], now, |c| {
        c.counter = counter;
        c.resume = vec![(*keys(1).public(), outside(1))];
    });
    *w.node(2) = fresh;
    w.settle();
    assert_eq!(w.send(1, 2, b"two"), Outcome::Sent);
    assert_eq!(w.received(2).last(), Some(&packet(1, 2, b"two")));
}

#[test]
fn a_peer_that_lost_its_state_without_a_word_is_noticed() {
    let e = Enclave::new();
    let mut w = pair(&[1], &[1]);
    w.send(1, 2, b"one");
    let now = w.now;
    *w.node(2) = e.node(
        &Spec {
            n: 2,
            communities: &[1],
        },
        &[Spec {
            n: 1,
            communities: &[1],
        }],
        now,
    );
    assert_eq!(w.send(1, 2, b"lost"), Outcome::Sent);
    w.advance(Duration::from_secs(6));
    w.send(1, 2, b"found");
    assert_eq!(w.received(2).last(), Some(&packet(1, 2, b"found")));
}

#[test]
fn an_unknown_member_is_asked_directly_and_only_once() {
    let e = Enclave::new();
    let spec = |n| Spec { n, communities: &[1] };
    let asker = e.node_with(&spec(1), &[spec(2)], Instant::ZERO, |c| {
        c.update.directory[0].statements.clear()
    });
    let mut w = Wire::new(vec![(1, asker), (2, e.node(&spec(2), &[], Instant::ZERO))]);
    assert_eq!(w.send(1, 2, b"who"), Outcome::Queued);
    assert_eq!(w.received(2), [packet(1, 2, b"who")]);
    assert_eq!([w.log[0].2[0], w.log[1].2[0]], [6, 7]);
    assert!(w.log[1].2.len() <= w.log[0].2.len());
    let question = w.log[0].2.clone();
    let now = w.now;
    let outcome = w
        .node(2)
        .handle_outside(&mut question.clone(), outside(1), now, &mut Buffers::default());
    assert_eq!(outcome, Outcome::Dropped(DropReason::Replayed));
}

#[test]
fn a_planned_epoch_loses_nothing_and_the_next_rekey_uses_it() {
    let e = Enclave::new();
    let mut w = pair(&[1], &[1]);
    w.send(1, 2, b"one");
    for n in [1, 2] {
        let now = w.now;
        w.node(n).handle_update(
            Update {
                manifests: vec![e.manifest(1, 1, 0, 100 + HOUR), e.manifest(1, 2, 100, 200 * HOUR)],
                keys: vec![Enclave::key(1, 2)],
                ..Update::default()
            },
            now,
        );
    }
    for _ in 0..300 {
        w.advance(Duration::from_secs(1));
        assert_eq!(w.send(1, 2, b"tick"), Outcome::Sent);
    }
    assert_eq!(w.received(2).len(), 301);
    let now = w.now;
    assert_eq!(w.node(1).status(now).peers[0].session.as_ref().unwrap().epoch, 2);
}

#[test]
fn a_session_ends_with_the_statement_unless_a_newer_one_comes() {
    let e = Enclave::new();
    for renewed in [false, true] {
        let mut w = pair(&[1], &[1]);
        w.send(1, 2, b"one");
        w.received(2);
        if renewed {
            for n in [1, 2] {
                let now = w.now;
                let statements = vec![e.statement(n, 1, 2, 2 * HOUR)];
                w.node(n).handle_update(
                    Update {
                        statements,
                        ..Update::default()
                    },
                    now,
                );
            }
            w.settle();
        }
        for _ in 0..4000 {
            w.advance(Duration::from_secs(1));
            w.send(1, 2, b"tick");
        }
        let got = w.received(2).len();
        if renewed {
            assert_eq!(got, 4000);
        } else {
            assert!((3590..3601).contains(&got), "{got}");
            assert_eq!(w.send(1, 2, b"x"), Outcome::Dropped(DropReason::MembershipEnded));
        }
    }
}

#[test]
fn revocations_spread_from_peer_to_peer_and_end_sessions_at_once() {
    let e = Enclave::new();
    let spec = |n| Spec { n, communities: &[1] };
    let node = |n: u8| {
        let others: Vec<_> = (1..=3).filter(|m| *m != n).map(spec).collect();
        (n, e.node(&spec(n), &others, Instant::ZERO))
    };
    let mut w = Wire::new(vec![node(1), node(2), node(3)]);
    w.send(2, 3, b"still a member");
    w.send(1, 3, b"still a member");
    assert_eq!(w.received(3).len(), 2);
    let list = Revocations {
        era: 1,
        enclave: e.id,
        revision: 1,
        entries: vec![coterie_model::Revocation {
            member: MemberId([3; 16]),
            static_key: *keys(3).public(),
            until: UnixTime(HOUR),
        }],
    };
    let list = Signed::sign(list, &e.signer);
    let now = w.now;
    w.node(1).handle_update(
        Update {
            revocations: Some(Unverified::parse(list.bytes()).unwrap()),
            ..Update::default()
        },
        now,
    );
    w.settle();
    w.send(1, 2, b"a handshake compares revisions");
    w.advance(Duration::from_secs(2));
    for n in [1, 2] {
        assert_eq!(w.node(n).status(now).revision, 1, "{n}");
        assert!(matches!(w.send(n, 3, b"no"), Outcome::Dropped(_)), "{n}");
    }
    w.received(1);
    w.send(3, 1, b"let me in");
    w.advance(Duration::from_secs(12));
    assert!(w.received(1).is_empty());
}

#[test]
fn an_excluded_listener_moves_the_choice() {
    let e = Enclave::new();
    let a = Spec {
        n: 1,
        communities: &[1, 2],
    };
    let b = Spec {
        n: 2,
        communities: &[1, 2],
    };
    let spy = Spec {
        n: 3,
        communities: &[1],
    };
    let node = e.node_with(&a, &[b, spy], Instant::ZERO, |c| c.exclude = vec![name(3)]);
    let explanation = node.explain(inside(2), Instant::ZERO);
    assert_eq!(explanation.candidates[0].0.community.as_str(), "c2");
    assert_eq!(explanation.candidates[0].1, coterie_model::choose::Verdict::Chosen);
    assert_eq!(
        explanation.candidates[1].1,
        coterie_model::choose::Verdict::HoldsExcluded(vec![name(3)])
    );
}

#[test]
fn a_member_that_left_a_community_is_no_listener_there_any_more() {
    let e = Enclave::new();
    let spec = |n| Spec {
        n,
        communities: &[1, 2],
    };
    let mut node = e.node_with(&spec(1), &[spec(2), spec(3)], Instant::ZERO, |c| {
        c.exclude = vec![name(3)]
    });
    assert_eq!(
        node.choose_for(node.by_name[&name(2)], Instant::ZERO),
        Err(DropReason::NoCommonCommunity)
    );
    let moved = DirectoryEntry {
        name: name(3),
        communities: vec![CommunityTag([1; 16])],
        addresses: vec![Prefix::host(inside(3)).unwrap()],
        endpoints: vec![outside(3)],
        statements: vec![e.statement(3, 1, 2, HOUR)],
    };
    let update = Update {
        directory: vec![moved],
        ..Update::default()
    };
    node.handle_update(update, Instant::ZERO);
    let chosen = node.choose_for(node.by_name[&name(2)], Instant::ZERO);
    assert_eq!(chosen, Ok(CommunityTag([2; 16])));
}

#[test]
fn a_fork_erases_everything() {
    let mut w = pair(&[1], &[1]);
    w.send(1, 2, b"one");
    w.node(1).handle_fork();
    let now = w.now;
    assert!(w.node(1).status(now).forked);
    assert!(w.node(1).status(now).communities.is_empty());
    assert!(matches!(w.send(1, 2, b"x"), Outcome::Dropped(_)));
}

#[test]
fn lost_messages_are_repeated_until_the_session_stands() {
    for lost in [1u8, 2, 4, 5] {
        let mut w = pair(&[1], &[1]);
        w.keep = match lost {
            1 => |b| b[0] != 1,
            2 => |b| b[0] != 2,
            4 => |b| b[0] != 4,
            _ => |b| b[0] != 5,
        };
        w.send(1, 2, b"patience");
        w.advance(Duration::from_secs(3));
        assert!(w.received(2).is_empty());
        w.keep = |_| true;
        w.advance(Duration::from_secs(3));
        assert_eq!(w.received(2), [packet(1, 2, b"patience")], "lost {lost}");
    }
}

#[test]
fn no_answer_is_told_inside() {
    let mut w = pair(&[1], &[1]);
    w.keep = |_| false;
    w.send(1, 2, b"anybody");
    w.advance(Duration::from_secs(15));
    let icmp = w.received(1);
    assert_eq!((icmp[0][9], icmp[0][20], icmp[0][21]), (1, 3, 1), "host unreachable");
    assert_eq!(w.node(1).counts().drops.get(DropReason::NoAnswer), 1);
}
