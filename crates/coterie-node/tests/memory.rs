//! What a node keeps in memory of a member that is silent, and of one that it has a session with.

use std::net::{IpAddr, SocketAddr};

use coterie_crypto::{Secret, SeededEntropy, aead::Suite, dh::KeyPair, sign::SigningKey};
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, EnclaveId, EpochKey, EpochKind, Instant, Manifest, MemberId, Name, Prefix,
    Signed, Statement, UnixTime, commitment,
};
use coterie_proto::{Config, Node, Ports, Update, handshake::payload::Suites, membership::Freshness};

/// Members beside the node.
const MEMBERS: u16 = 4000;
/// How many of them get a session.
const SESSIONS: u16 = 400;

const TAG: CommunityTag = CommunityTag([1; 16]);
const ENCLAVE: EnclaveId = EnclaveId([7; 16]);

fn signer() -> SigningKey {
    SigningKey::from_seed(Secret::new([9; 32]))
}

fn keys(n: u16) -> KeyPair {
    let mut private = [5; 32];
    private[8..10].copy_from_slice(&n.to_be_bytes());
    KeyPair::from_private(Secret::new(private))
}

fn inside(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::from([10, 0, high, low])
}

fn outside(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([198, 18, high, low], 4747))
}

fn name(n: u16) -> Name {
    Name::new(&format!("member-{n}")).expect("a name")
}

fn statement(n: u16) -> Signed<Statement> {
    let [high, low] = n.to_be_bytes();
    let mut member = [0; 16];
    member[..2].copy_from_slice(&[high, low]);
    let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]);
    let statement = Statement {
        era: 1,
        enclave: ENCLAVE,
        tag: TAG,
        member: MemberId(member),
        name: name(n),
        static_key: *keys(n).public(),
        addresses: [inside(n), v6].into_iter().filter_map(Prefix::host).collect(),
        serial: 1,
        not_after: UnixTime(1_000_000),
    };
    Signed::sign(statement, &signer())
}

fn node(n: u16, others: impl Iterator<Item = u16>) -> Node {
    let key = Secret::new([3; 32]);
    let manifest = Manifest {
        era: 1,
        enclave: ENCLAVE,
        tag: TAG,
        name: Name::new("all").expect("a name"),
        priority: 100,
        epoch: 1,
        commitment: commitment(TAG, 1, &key),
        activates: UnixTime(0),
        retires: UnixTime(1_000_000),
        kind: EpochKind::Scheduled,
        holders: 2,
    };
    let authority = Authority {
        era: 1,
        enclave: ENCLAVE,
        name: Name::new("shop").expect("a name"),
        statement_key: signer().verifying_key(),
        not_after: UnixTime(1_000_000),
    };
    let config = Config {
        keys: keys(n),
        name: name(n),
        authority: Signed::sign(authority, &signer()),
        freshness: Freshness::Offline,
        time: UnixTime(1),
        suites: Suites::new(&[Suite::Aes256Gcm]).expect("a suite"),
        preferred: Suite::Aes256Gcm,
        lanes: 1,
        exclude: vec![],
        roaming: false,
        may_ask_cookie: false,
        port: 4747,
        update: Update {
            manifests: vec![Signed::sign(manifest, &signer())],
            keys: vec![EpochKey {
                tag: TAG,
                epoch: 1,
                key,
            }],
            statements: vec![statement(n)],
            directory: others.map(entry).collect(),
            ..Update::default()
        },
        counter: 1,
        accepted: vec![],
        answered: vec![],
        resume: vec![],
    };
    Node::new(
        config,
        Box::new(SeededEntropy::from_number(u64::from(n))),
        Instant::ZERO,
    )
}

fn entry(n: u16) -> DirectoryEntry {
    DirectoryEntry {
        name: name(n),
        communities: vec![TAG],
        addresses: statement(n).addresses.clone(),
        endpoints: vec![outside(n)],
        statements: vec![statement(n)],
    }
}

#[derive(Default)]
struct Wire(Vec<(SocketAddr, Vec<u8>)>);

impl Ports for Wire {
    fn outside(&mut self, to: SocketAddr, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let mut bytes = vec![0; len];
        if fill(&mut bytes) {
            self.0.push((to, bytes));
        }
    }

    fn inside(&mut self, _packet: &[u8]) {}
}

/// Everything that `from` has to say goes to `to`.
fn carry(from: &mut Node, wire: &mut Wire, source: SocketAddr, to: &mut Node, back: &mut Wire) -> bool {
    while from.poll_persist().is_some() || from.poll_event().is_some() {}
    let sent: Vec<_> = std::iter::from_fn(|| from.poll_transmit())
        .map(|t| t.bytes)
        .chain(wire.0.drain(..).map(|(_, b)| b))
        .collect();
    let any = !sent.is_empty();
    for mut bytes in sent {
        to.handle_outside(&mut bytes, source, Instant::ZERO, back);
    }
    any
}

fn packet(from: u16, to: u16) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (inside(from), inside(to)) else {
        unreachable!("both are IPv4")
    };
    let mut p = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0];
    p.extend_from_slice(&source.octets());
    p.extend_from_slice(&destination.octets());
    p.extend_from_slice(b"data");
    p
}

/// Resident bytes of this process that are its own.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status
        .lines()
        .find(|l| l.starts_with("RssAnon:"))
        .expect("a line of it");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<usize>().ok())
        .expect("a number")
        * 1024
}

#[test]
fn a_silent_member_takes_1_kib_and_a_session_8() {
    let mut hub = node(0, 1..=1);
    let before = resident();
    // One by one, so that what is measured is what the node keeps and not the list that it was given.
    for n in 1..=MEMBERS {
        hub.handle_update(
            Update {
                directory: vec![entry(n)],
                ..Update::default()
            },
            Instant::ZERO,
        );
    }
    let silent = (resident() - before) / usize::from(MEMBERS);

    let mut spokes: Vec<_> = (1..=SESSIONS).map(|n| (n, node(n, 0..=0))).collect();
    let before = resident();
    for (n, spoke) in &mut spokes {
        let (mut out, mut back) = (Wire::default(), Wire::default());
        spoke.handle_inside(&packet(*n, 0), Instant::ZERO, &mut out);
        while carry(spoke, &mut out, outside(*n), &mut hub, &mut back)
            | carry(&mut hub, &mut back, outside(0), spoke, &mut out)
        {}
        assert_eq!(hub.counts().responded, u64::from(*n), "a session with {n}");
    }
    // Both ends of each session live in this process.
    let session = (resident() - before) / usize::from(SESSIONS) / 2;
    eprintln!("{{\"silent_member_bytes\":{silent},\"session_bytes\":{session}}}");
    assert!(silent <= 1024, "a silent member takes {silent} bytes");
    assert!(session <= 8 * 1024, "a session takes {session} bytes");
}
