//! Writes true values into the corpus, one file each: `cargo run --example seeds` in this directory, after a format changed.

#[path = "../properties/remake.rs"]
#[expect(dead_code, reason = "properties use the rest of it")]
mod remake;
#[path = "../properties/site.rs"]
#[expect(dead_code, reason = "properties use the rest of it")]
mod site;

use std::{fs, path::Path};

use coterie_control::{
    bundle::parts::{self, Certificate, Labels, SealedView},
    follow::{Knocking, message},
};
use coterie_crypto::{Secret, SeededEntropy, aead::Suite, hash, kem, sign::SigningKey};
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, EnclaveId, EpochKey, EpochKind, Head, Manifest, MemberId, Name, Prefix,
    Revocation, Revocations, Signed, Statement, UnixTime, Unverified, Writer, signed::head_hash,
};
use coterie_proto::{
    handshake::payload::{InitiationPayload, ResponsePayload, Suites},
    wire::{
        control::Control,
        datagram::{SealedHeader, Step, provisional_header},
    },
};

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, values) in all() {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).expect("a folder");
        for value in values {
            let name: String = hash::sha256(&[&value])[..10]
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            fs::write(folder.join(name), value).expect("a file");
        }
    }
}

fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let key = SigningKey::from_seed(Secret::new([9; 32]));
    let list = Signed::sign(revocations(3), &key);
    let statements = [statement(1, 0), statement(63, 15)].map(|s| Signed::sign(s, &key));
    vec![
        ("datagram", datagrams()),
        ("control", controls()),
        ("packet", packets()),
        ("authority", vec![Signed::sign(authority(&key), &key).bytes().to_vec()]),
        ("statement", statements.iter().map(|s| s.bytes().to_vec()).collect()),
        (
            "manifest",
            [EpochKind::Scheduled, EpochKind::Removal]
                .map(|kind| Signed::sign(manifest(kind), &key).bytes().to_vec())
                .to_vec(),
        ),
        (
            "revocations",
            [0, 1, 3]
                .map(|n| Signed::sign(revocations(n), &key).bytes().to_vec())
                .to_vec(),
        ),
        ("head", vec![Signed::sign(head(&list), &key).bytes().to_vec()]),
        ("directory_entry", entries(&statements)),
        ("initiation_payload", initiations(&statements)),
        ("response_payload", responses(&statements)),
        ("question", statements.iter().map(|s| text(&[0xfd; 16], s)).collect()),
        ("answer", statements.iter().map(|s| text(&[8; 12], s)).collect()),
        ("cookie", vec![vec![1; 16], vec![1; 15], vec![1; 17]]),
        ("nodes", scripts()),
        ("enclave_file", files()),
        (
            "bundle",
            [edits(5000), numbers(), objects(), entries_of_view()].concat(),
        ),
        ("diagnostics", files()),
        (
            "frame",
            datagrams().into_iter().chain([vec![0; 31], vec![0; 15]]).collect(),
        ),
        ("bundle_body", bodies()),
        ("certificate", certificates()),
        ("wrapped_keys", deliveries()),
        ("key_encryption_key", texts()),
        ("view", views()),
        ("request", edits(1800)),
        ("keys", edits(120)),
        ("token", changes(&[0, 1], 260, 6, &[2])),
        ("application", applications()),
        ("reply", replies()),
        ("message", messages(&statements, &list, &key)),
        ("records", records()),
        ("visits", journeys()),
    ]
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn authority(key: &SigningKey) -> Authority {
    Authority {
        era: 1,
        enclave: EnclaveId([7; 16]),
        name: name("shop"),
        statement_key: key.verifying_key(),
        not_after: UnixTime(1_000_000),
    }
}

fn statement(length: usize, more: u16) -> Statement {
    let v4 = [Prefix::host([10, 0, 0, 1].into())];
    let v6 = (0..more).map(|n| Prefix::new([0xfd00, n, 0, 0, 0, 0, 0, 0].into(), 64));
    Statement {
        era: 1,
        enclave: EnclaveId([7; 16]),
        tag: CommunityTag([1; 16]),
        member: MemberId([2; 16]),
        name: name(&"m".repeat(length)),
        static_key: [3; 32],
        addresses: v4.into_iter().chain(v6).map(|p| p.expect("a prefix")).collect(),
        serial: 1,
        not_after: UnixTime(1_000_000),
    }
}

fn manifest(kind: EpochKind) -> Manifest {
    Manifest {
        era: 1,
        enclave: EnclaveId([7; 16]),
        tag: CommunityTag([1; 16]),
        name: name("web"),
        priority: 100,
        epoch: 1,
        commitment: [5; 32],
        activates: UnixTime(1),
        retires: UnixTime(2),
        kind,
        holders: 3,
    }
}

fn revocations(n: u8) -> Revocations {
    let entry = |n| Revocation {
        member: MemberId([n; 16]),
        static_key: [n; 32],
        until: UnixTime(9),
    };
    Revocations {
        era: 1,
        enclave: EnclaveId([7; 16]),
        revision: n.into(),
        entries: (0..n).map(entry).collect(),
    }
}

fn head(list: &Signed<Revocations>) -> Head {
    Head {
        era: 1,
        enclave: EnclaveId([7; 16]),
        revision: list.revision,
        time: UnixTime(7),
        hash: head_hash(list),
    }
}

fn entries(statements: &[Signed<Statement>]) -> Vec<Vec<u8>> {
    let entry = |endpoints: Vec<std::net::SocketAddr>, statements: Vec<Signed<Statement>>| {
        let mut w = Writer::new();
        DirectoryEntry {
            name: name("web-1"),
            communities: vec![CommunityTag([1; 16]); 2],
            addresses: statements.iter().flat_map(|s| s.addresses.clone()).take(16).collect(),
            endpoints,
            statements,
        }
        .encode(&mut w);
        w.into_bytes()
    };
    let endpoints = vec![
        ([192, 0, 2, 1], 4747).into(),
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4747).into(),
    ];
    vec![entry(vec![], vec![]), entry(endpoints, statements.to_vec())]
}

fn initiations(statements: &[Signed<Statement>]) -> Vec<Vec<u8>> {
    let payload = |s: &Signed<Statement>| InitiationPayload {
        counter: 1,
        lanes: 1,
        suites: Suites::new(&Suite::ALL).expect("three suites"),
        preferred: Suite::Aes256Gcm,
        era: 1,
        revision: 2,
        statement: Unverified::parse(s.bytes()).expect("signed"),
    };
    statements.iter().map(|s| payload(s).to_bytes()).collect()
}

fn responses(statements: &[Signed<Statement>]) -> Vec<Vec<u8>> {
    let payload = |s: &Signed<Statement>| ResponsePayload {
        lanes: 16,
        suite: Suite::ChaCha20Poly1305,
        era: 1,
        revision: 2,
        statement: Unverified::parse(s.bytes()).expect("signed"),
    };
    statements.iter().map(|s| payload(s).to_bytes()).collect()
}

fn text(first: &[u8], statement: &Signed<Statement>) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(first).counted(statement.bytes());
    w.into_bytes()
}

fn datagrams() -> Vec<Vec<u8>> {
    let padded = |mut bytes: Vec<u8>, len: usize| {
        bytes.resize(len, 0x11);
        bytes
    };
    let header = SealedHeader {
        lane: 1,
        receiver: 2,
        salt: [3; 4],
        counter: 4,
    };
    let mut all = vec![
        padded(vec![1, 0, 0, 0], 168),
        padded(vec![2, 0, 0, 0], 108),
        padded(vec![3, 0, 0, 0], 52),
        padded(header.to_bytes().to_vec(), 33),
        padded(vec![6, 0, 0, 0], 1200),
        padded(vec![7, 0, 0, 0], 64),
    ];
    all.extend([Step::Offer, Step::Answer, Step::Confirm].map(|s| padded(provisional_header(s, 9).to_vec(), 64)));
    all
}

fn controls() -> Vec<Vec<u8>> {
    let mut entropy = SeededEntropy::from_number(1);
    let (_, ek) = kem::DecapsulationKey::generate(&mut entropy);
    let (ct, _) = kem::encapsulate(&ek, &mut entropy).expect("a true key");
    let difference = Control::Difference {
        transfer: 1,
        offset: 0,
        total: 5,
        bytes: &[1; 5],
    };
    [
        Control::Keepalive,
        Control::Probe([1; 8]),
        Control::ProbeReply([2; 8]),
        Control::Close,
        Control::RekeyInitiation(&[9; 200]),
        Control::RekeyResponse(&[8; 200]),
        Control::RekeyOffer(1, &ek),
        Control::RekeyAnswer(2, &ct),
        Control::RekeyConfirm(3, &[7; 40]),
        Control::DifferenceRequest(4, 5),
        difference,
        Control::Statement(&[6; 20]),
        Control::Carry {
            offset: 0,
            total: 5,
            bytes: &[1; 5],
        },
        Control::Carried(5),
    ]
    .iter()
    .map(Control::to_bytes)
    .collect()
}

fn packets() -> Vec<Vec<u8>> {
    let v4 = |protocol: u8, payload: &[u8]| {
        let len = u8::try_from(20 + payload.len()).expect("short");
        let mut p = vec![
            0x45, 0, 0, len, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        p.extend_from_slice(payload);
        p
    };
    let v6 = |protocol: u8, payload: &[u8]| {
        let len = u8::try_from(payload.len()).expect("short");
        let mut p = vec![0x60, 0, 0, 0, 0, len, protocol, 64];
        p.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        p.extend_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        p.extend_from_slice(payload);
        p
    };
    vec![
        v4(17, &[0; 8]),
        v4(1, &[8, 0, 0, 0, 0, 0, 0, 0]),
        v4(1, &[3, 1, 0, 0, 0, 0, 0, 0]),
        v6(17, &[0; 8]),
        v6(58, &[128, 0, 0, 0]),
        v6(58, &[1, 0, 0, 0]),
    ]
}

/// Scripts of the stateful target: a session and packets; loss and time; a rekey; updates and a restart; a question.
fn scripts() -> Vec<Vec<u8>> {
    let talk = [&[0, 0, 1, 15][..], &[0, 1, 0, 15], &[0, 0, 1, 15]].concat();
    vec![
        talk.clone(),
        [&talk[..], &[7, 17, 15, 0, 0, 1, 15, 7, 17, 15]].concat(),
        [
            &talk[..],
            &[7, 16, 0, 0, 1, 15, 7, 16, 0, 0, 1, 15, 7, 12, 15, 0, 0, 1, 15],
        ]
        .concat(),
        [&[0, 0, 1, 3, 0, 5, 0, 7, 9, 15][..], &talk].concat(),
        [&talk[..], &[11, 0, 0, 200, 15, 7, 10, 15, 0, 0, 1, 7, 11, 15]].concat(),
        [&talk[..], &[11, 1, 2, 15, 11, 0, 1, 15, 11, 2, 3, 15]].concat(),
        [&talk[..], &[12, 1, 15, 0, 0, 1, 15, 12, 0, 15]].concat(),
        [&[0, 0, 2, 15, 0, 0, 2, 15][..], &[13, 1, 2, 15]].concat(),
        [&[0, 0, 1][..], &[6, 0, 1, 0, 9, 3, 2, 0, 20, 2, 9], &talk].concat(),
        [&talk[..], &[9, 0, 0, 9, 0, 3, 9, 0, 5, 9, 0, 7], &talk].concat(),
        [&talk[..], &[0, 0, 1, 10, 0, 5, 15, 0, 1, 0, 15]].concat(),
        [&talk[..], &[8, 20, 9, 1, 5, 0, 0, 0, 0, 0], &talk].concat(),
    ]
}

fn files() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["examples", "crates/coterie-control/tests/enclave_file/bad"];
    folders
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).expect("a folder of examples"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| fs::read(path).expect("a file"))
        .filter(|bytes| bytes.len() < 8192)
        .chain(selectors())
        .collect()
}

/// [`SELECTORS`], and with one value of it changed.
fn selectors() -> Vec<Vec<u8>> {
    let changes = [
        ("", ""),
        (">=2, <8", ">18446744073709551615"),
        (">=2, <8", "<0"),
        (">=2, <8", ">8, <2"),
        (">=2, <8", "18446744073709551616"),
        (">=2, <8", "4"),
        (">1GiB, <=64GiB", ">18446744073709551615"),
        (">1GiB, <=64GiB", "<0"),
        (">1GiB, <=64GiB", ">2GiB, <1GiB"),
        (">1GiB, <=64GiB", "18446744073709551615TiB"),
        (">1GiB, <=64GiB", "99999999999999999999KiB"),
        (">1GiB, <=64GiB", "=8GiB"),
        ("1w2d3h4m5s", "99999999999999999999w"),
        ("1w2d3h4m5s", "18446744073709551615w"),
        ("1w2d3h4m5s", "5s1w"),
        ("1w2d3h4m5s", ""),
        ("1w2d3h4m5s", "5"),
        ("1w2d3h4m5s", "w"),
        ("4c4c4544-0042", "4c4c454g-0042"),
        ("52:54:00:*", "52:54:00"),
        ("n:53/udp", "n:53/sctp"),
        ("n:53/udp", "n:0"),
    ];
    changes
        .iter()
        .map(|(old, new)| {
            if old.is_empty() {
                SELECTORS.to_owned()
            } else {
                SELECTORS.replace(old, new)
            }
            .into_bytes()
        })
        .collect()
}

/// A file with every selector and every form of test.
const SELECTORS: &str = r#"
version = 1
[enclave]
name = "e"
pools = ["10.0.0.0/8"]
lease = "1w2d3h4m5s"
[community.a]
epoch = "30d"
[template.t]
communities = ["a"]
[template.t.match]
name = "w?b-*"
labels = { role = "web" }
mac = ["52:54:00:12:34:56", "52:54:00:*"]
uuid = ["4c4c4544-0042-3510-8054-b4c04f4e3132"]
cpus = ">=2, <8"
memory = ">1GiB, <=64GiB"
[member.m]
template = "t"
[member.n]
template = "t"
[[tests]]
name = "one"
from = "template:t"
to = "community:a:443/tcp"
[[tests]]
from = "m"
to = "n:53/udp"
via = "a"
"#;

/// Small numbers in every place of a bundle's front and template.
fn numbers() -> Vec<Vec<u8>> {
    let places = 150..680u16;
    let edit = |place: u16, new: u8| {
        let [high, low] = place.to_be_bytes();
        vec![0, high, low, 1, 1, new]
    };
    places
        .flat_map(|place| [0, 1, 2, 3, 8].map(|new| edit(place, new)))
        .collect()
}

/// Changes of the signed objects of a bundle and of its wrapped keys: one byte, in every place.
fn objects() -> Vec<Vec<u8>> {
    let object = |which: u8, place: u16, new: u8| {
        let [high, low] = place.to_be_bytes();
        vec![4, which, high, low, 1, 1, new]
    };
    let wrapped = |place: u16, new: u8| {
        let [high, low] = place.to_be_bytes();
        vec![3, high, low, 1, 1, new]
    };
    let objects = (0..9).flat_map(|which| (0..280).map(move |place| object(which, place, 2)));
    let wrapped = (0..1500).step_by(3).chain(0..12).map(|place| wrapped(place, 3));
    let cuts = (0..6000u16).filter(|at| *at < 900 || at % 16 == 0).map(|at| {
        let [high, low] = at.to_be_bytes();
        vec![5, high, low]
    });
    objects.chain(wrapped).chain(cuts).collect()
}

/// Changes of the entries of a bundle's last view.
fn entries_of_view() -> Vec<Vec<u8>> {
    let changes = edits(900).into_iter().filter(|edit| edit[0] == 0);
    changes.map(|edit| [&[6], &edit[1..]].concat()).collect()
}

/// A true bundle with its certificates and signed objects cut to nearly nothing, which its decoder leaves to others; each
/// small number in every place; and cut off at every place.
fn bodies() -> Vec<Vec<u8>> {
    let bundle = &site::THE_SITE.bundle_body;
    let (front, mut content) = parts::decode_bundle(bundle).expect("a true bundle");
    let certificates = [
        &mut content.root_certificate,
        &mut content.bundle_certificate,
        &mut content.identity_certificate,
    ];
    let objects = content.statements.iter_mut().chain(&mut content.manifests);
    let lists = content.revocations.iter_mut().chain(&mut content.head);
    certificates
        .into_iter()
        .chain(objects)
        .chain(lists)
        .for_each(|bytes| bytes.truncate(3));
    content
        .views
        .iter_mut()
        .for_each(|v: &mut SealedView| v.sealed.truncate(3));
    content.gateways = vec![
        ([192, 0, 2, 1], 4747).into(),
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4747).into(),
    ];
    let whole = [parts::encode_body(&front, &content), vec![0; 64]].concat();
    let mut all = vec![bundle.clone(), whole.clone()];
    for place in 0..whole.len() {
        all.push(whole[..place].to_vec());
        for new in [0, 1, 2, 3, 8, 0xff] {
            let mut changed = whole.clone();
            changed[place] = new;
            all.push(changed);
        }
    }
    all
}

/// Every certificate of a bundle, whole and with one element changed, removed, or doubled; signed again and not.
fn certificates() -> Vec<Vec<u8>> {
    let mut all = vec![
        vec![0],
        vec![8],
        vec![9],
        vec![10],
        vec![3, 0x30, 0],
        vec![3, 0x30, 0, 0],
    ];
    for (which, element) in (0..3).flat_map(|which| (0..72).map(move |element| (which, element))) {
        for first in [which, which + 8, which + 12] {
            all.push(vec![first, 0, element, 5, 0, 0, 1, 1, 0x2a]);
            all.push(vec![first, 1, element, 0]);
            all.push(vec![first, 2, element, 0]);
            all.push(vec![first, 3, element, 0]);
            all.push(vec![first, 4, element, 1, 5]);
        }
    }
    all
}

fn deliveries() -> Vec<Vec<u8>> {
    let certificate = Certificate::decode(&site::THE_SITE.certificates[0]).expect("a true certificate");
    let content = certificate.wrapped_keys().expect("well-formed").expect("wrapped keys");
    let mut all: Vec<Vec<u8>> = (0..content.len())
        .filter(|at| !(16..1120).contains(at))
        .map(|at| content[..at].to_vec())
        .collect();
    all.extend((0..8).map(|at| {
        let mut changed = content.clone();
        changed[at] ^= 1;
        changed
    }));
    all.push([&content[..], &[0]].concat());
    all.push(content);
    all
}

fn texts() -> Vec<Vec<u8>> {
    let text = |labels: u8| {
        let labels: Labels = (0..labels).map(|n| ([n; 16], CommunityTag([n; 16]))).collect();
        parts::encode_key_encryption_key(&Secret::new([9; 32]), &labels).to_vec()
    };
    let cut = [0, 31, 32, 40, 50].map(|at| text(1)[..at].to_vec());
    [text(0), text(2), [&text(1)[..], &[0]].concat()]
        .into_iter()
        .chain(cut)
        .collect()
}

fn views() -> Vec<Vec<u8>> {
    let text = &site::THE_SITE.view.text;
    let cut = (0..text.len()).step_by(7).map(|at| text[..at].to_vec());
    [vec![0, 0], vec![0xff, 0xff], vec![0, 0, 0], text.clone()]
        .into_iter()
        .chain(cut)
        .collect()
}

/// Edits of a true file of about `len` bytes: none, and one of each byte string at places all over it.
fn edits(len: u16) -> Vec<Vec<u8>> {
    let mut all = vec![
        vec![0],
        vec![1],
        vec![2],
        b"\x02-----BEGIN COTERIE BUNDLE-----\n\n".to_vec(),
    ];
    for place in (0..64).map(|n| len / 64 * n) {
        let [high, low] = place.to_be_bytes();
        for kind in [0, 1] {
            all.push(vec![kind, high, low, 1, 1, 0xff]);
            all.push(vec![kind, high, low, 1, 0]);
            all.push(vec![kind, high, low, 0, 2, b'\n', 0]);
        }
    }
    all
}

/// For each of `kinds`, edits at places of a true value all over its `len`, `step` bytes apart: it begins there with another
/// byte, ends there, or one is gone. And the bare `more`.
fn changes(kinds: &[u8], len: u16, step: usize, more: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = kinds.iter().chain(more).map(|kind| vec![*kind]).collect();
    for place in (0..len).step_by(step) {
        let [high, low] = place.to_be_bytes();
        for kind in kinds {
            all.push(vec![*kind, high, low, 1, 1, 2]);
            all.push(vec![*kind, high, low, 1, 0]);
            all.push([&[*kind][..], &[high, low, 255, 0].repeat(12)].concat());
        }
    }
    all
}

/// What stands behind the request of an application, in clear, and what is wrong with it.
fn applications() -> Vec<Vec<u8>> {
    let facts = |labels: &[(&str, &str)], macs: u8, uuid: u8, ticket: u8| {
        let mut w = Writer::new();
        w.u8(3).counted(b"web-7").u8(u8::try_from(labels.len()).expect("few"));
        for (key, value) in labels {
            w.counted(key.as_bytes()).counted(value.as_bytes());
        }
        w.u8(macs)
            .bytes(&[2; 6].repeat(macs.into()))
            .u8(uuid)
            .bytes(&[9; 16][..usize::from(uuid % 2) * 16]);
        w.u64(4)
            .u64(0)
            .u8(ticket)
            .bytes(&[5; 32][..usize::from(ticket % 2) * 32]);
        w.into_bytes()
    };
    let (long, longer) = ("k".repeat(256), "k".repeat(257));
    let many: Vec<_> = ["a"; 33].map(|key| (key, "b")).into();
    let mut all = changes(&[4], 140, 3, &[0, 1, 2, 3, 5, 6, 7]);
    all.extend(changes(&[1, 5], 1900, 128, &[]));
    all.extend([
        facts(&[], 0, 0, 0),
        facts(&[("a", "b"), ("b", "")], 16, 1, 1),
        facts(&[("b", "b"), ("a", "")], 1, 1, 1),
        facts(&[("a", "b"), ("a", "b")], 1, 1, 1),
        facts(&[(&long, "b")], 17, 0, 0),
        facts(&[(&long, &long)], 16, 2, 0),
        facts(&[(&longer, "b")], 1, 0, 2),
        facts(&many, 1, 0, 0),
        facts(&many[..1], 1, 1, 2),
    ]);
    // Another static key in the request.
    all.push(vec![1, 0, 10, 1, 1, 2]);
    // A static key of low order; other versions and tokens.
    all.push([&[5, 0, 17, 32, 32][..], &[0; 32]].concat());
    all.extend([0, 1].map(|place| vec![5, 0, place, 1, 1, 2]));
    all
}

fn replies() -> Vec<Vec<u8>> {
    let mut all = changes(&[0, 2, 5], 80, 5, &[1, 3, 6, 7]);
    all.extend([
        vec![],
        vec![4, 1],
        vec![1, 0],
        vec![1, 1],
        vec![1, 2],
        [&[1, 1][..], &[7; 32]].concat(),
        [&[4, 1][..], &[7; 40]].concat(),
        [&[4, 2][..], &[7; 40]].concat(),
    ]);
    all
}

/// A message of each kind; each cut, and with one byte more.
fn messages(statements: &[Signed<Statement>], list: &Signed<Revocations>, key: &SigningKey) -> Vec<Vec<u8>> {
    let tag = CommunityTag([1; 16]);
    let entry = |statement: &Signed<Statement>| DirectoryEntry {
        name: statement.name.clone(),
        communities: vec![tag],
        addresses: statement.addresses.clone(),
        endpoints: vec![([192, 0, 2, 1], 4747).into()],
        statements: vec![statement.clone()],
    };
    let entries: Vec<_> = statements.iter().map(entry).collect();
    let epochs = [EpochKind::Scheduled, EpochKind::Removal].map(|kind| Signed::sign(manifest(kind), key));
    let knock = |n| Knocking {
        key: EpochKey {
            tag: CommunityTag([n; 16]),
            epoch: 1,
            key: Secret::new([n; 32]),
        },
        not_after: UnixTime(9),
    };
    let mut framed = vec![
        message::pulse(&Signed::sign(head(list), key)),
        message::revocations(list),
        message::manifests(tag, epochs.iter()),
        message::manifests(tag, [].iter()),
        message::renew(),
        message::knocks(&[knock(1), knock(2)]),
        message::mark(7),
        message::explain(7, "web-1"),
        message::explain(7, &"n".repeat(256)),
    ];
    framed.extend(message::change(tag, &entries, &[name("gone"), name("too")]));
    framed.extend(message::whole(tag, &[]));
    framed.extend(message::whole(tag, &entries[..1]));
    let whole = framed.into_iter().map(|message| message[4..].to_vec());
    let mut all = vec![vec![], vec![0], vec![8]];
    for message in whole {
        let cuts = (1..message.len()).filter(|at| *at < 24 || at % 64 == 0);
        all.extend(cuts.map(|at| message[..at].to_vec()));
        all.push([&message[..], &[0]].concat());
        all.extend(
            [1, 9, 10, 11, 17, 18, 19]
                .into_iter()
                .filter(|at| *at < message.len())
                .map(|at| {
                    let mut changed = message.clone();
                    changed[at] = 0xff;
                    changed
                }),
        );
        all.push(message);
    }
    all
}

/// One change of each record, of each kind, at a few of its places; and what takes two.
fn records() -> Vec<Vec<u8>> {
    let change = |which: u8, what: u8, rest: &[u8]| {
        let length = u8::try_from(rest.len()).expect("short");
        [&[which, what, length][..], rest].concat()
    };
    let mut all = vec![vec![]];
    for which in 0..14 {
        for leaf in 0..12 {
            all.push(change(which, 1, &[leaf, 0, 40, 1, 1, 9]));
            all.push(change(which, 1, &[leaf]));
            all.push(change(which, 2, &[leaf, 0, 20, 1, 1, 9]));
            all.push(change(which, 3, &[leaf, 0, 0, 1, 1, b'!']));
            all.extend((0..9).map(|value| change(which, 4, &[leaf, value, 7])));
        }
        all.push(change(which, 0, &[0, 9, 1, 1, 0]));
        all.push(change(which, 0, &[0, 30, 1, 1, 9]));
        all.push(change(which, 0, &[0, 40, 255, 0]));
        all.push(change(which, 5, &[]));
        all.push(change(which, 6, &[which + 1]));
        all.extend((0..8).map(|kind| change(which, 7, &[&[kind][..], b"other"].concat())));
        all.push(change(which, 7, &[4, b'/']));
        // Two of the same, and one in the place of the one before.
        let next = [change(which, 6, &[which + 1]), change(which + 1, 5, &[])].concat();
        all.push(
            [
                &next[..],
                &change(which, 1, &[3, 0, 9, 1, 1, 9]),
                &change(which + 2, 2, &[1, 0, 3, 0]),
            ]
            .concat(),
        );
    }
    all
}

/// Scripts of a visit: undisturbed; with loss and time; restarts; knocks taken away; insiders.
fn journeys() -> Vec<Vec<u8>> {
    let talk = [15, 15, 11, 15];
    let call = [5, 1];
    let script = |parts: &[&[u8]]| parts.concat();
    let mut all = Vec::new();
    for shape in [[0, 0, 0], [1, 40, 20], [0, 255, 255], [2, 9, 9], [3, 1, 200]] {
        all.push(script(&[&shape, &call, &talk]));
        all.push(script(&[&shape, &call, &[0, 0, 5, 9, 2, 0, 15, 2, 3, 15], &talk]));
        all.push(script(&[&shape, &call, &[15, 9, 0, 15, 5, 13, 15, 9, 1], &talk]));
        all.push(script(&[&shape, &call, &[0, 0, 10, 0, 0, 15, 10, 0, 1, 5, 12], &talk]));
        all.push(script(&[&shape, &call, &[8, 0, 3, 15, 7, 0, 0, 0, 7, 0, 1, 1], &talk]));
        all.push(script(&[&shape, &call, &[3, 0, 1, 0, 9, 3, 2, 0, 20, 2, 9], &talk]));
        all.push(script(&[&shape, &call, &[6, 20, 1, 5, 1, 0, 0, 0, 0, 0], &talk]));
    }
    for said in 0..8 {
        for number in 0..8 {
            let frames = [0, 5, said, number, number, 1, 7, said, 1, number, 0, 2, 3, number].repeat(3);
            all.push(script(&[&[0, 30, 30], &call, &[12, 0, 0, 0, 0, 0, 9], &frames]));
            all.push(script(&[&[1, 30, 30], &call, &[13, 1, 0, 0, 0, 9], &frames]));
        }
    }
    for (place, value) in [(0, 1), (7, 9), (8, 0), (8, 1), (9, 0), (9, 3), (40, 1)] {
        let changed = [place * 4 + 3, value];
        all.push(script(&[&[1, 3, 3], &call, &[12, 0, 0], &changed, &[0, 0, 3, 0, 0]]));
        all.push(script(&[&[1, 3, 3], &call, &[12, 0, 0, 0], &changed, &[0, 3, 0, 0]]));
        all.push(script(&[&[1, 3, 3], &call, &[12, 0, 0, 0, 0], &changed, &[3, 0, 0]]));
        all.push(script(&[&[1, 3, 3], &call, &[13, 1, 0], &changed, &[0, 3, 0, 0]]));
        all.push(script(&[&[1, 3, 3], &call, &[13, 1, 0, 0], &changed, &[3, 0, 0]]));
    }
    // Until after the token's end.
    all.push(script(&[&[0, 3, 3], &[5, 16].repeat(58), &talk]));
    all.push(script(&[&[1, 3, 3], &call, &[12, 0, 15, 0, 0, 0, 13, 1, 15, 0, 0]]));
    all.push(script(&[&[1, 3, 3], &call, &[13, 0, 15, 13, 0, 15], &talk]));
    all.push(script(&[&[0, 3, 3], &call, &[13, 0, 15, 15], &talk]));
    all
}
