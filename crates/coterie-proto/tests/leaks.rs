//! What an adversary gets for what leaked, and that a member with a community's key cannot pass for another member.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test of nodes uses a part of it")]
mod world;

use std::time::Duration;

use coterie_crypto::{Entropy, Secret, SeededEntropy, aead::Suite, dh::KeyPair, kem};
use coterie_model::{EpochKey, Prefix, Signed, Statement, Unverified};
use coterie_proto::{
    DropReason, Outcome, Persist,
    handshake::payload::{InitiationPayload, ResponsePayload, Suites},
};
use world::{
    Enclave, HOUR, Wire,
    attacker::{Capture, ForgedInitiation, ForgedResponse, Leaked, Reach, answer_in, attack, resign_macs},
    inside, keys, others, outside, packet,
};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const MALLORY: u8 = 3;
const CANARY: &[u8] = b"canary in clear";

const COI: u8 = 1;
const STATICS: u8 = 2;
const EPHEMERALS: u8 = 4;
const KEM: u8 = 8;

/// What is expected for each combination of leaked {COI key, both static keys, both ephemeral keys, KEM secret}.
const EXPECTED: [(u8, Reach, &str); 16] = [
    (
        0,
        Reach::Nothing,
        "every message is sealed or keyed from its first byte on",
    ),
    (
        STATICS,
        Reach::Nothing,
        "the pre-shared key is mixed before any Diffie-Hellman",
    ),
    (EPHEMERALS, Reach::Nothing, "as before: no psk, no key of any seal"),
    (KEM, Reach::Nothing, "the KEM's secret enters only at the root"),
    (
        STATICS | EPHEMERALS,
        Reach::Nothing,
        "every Diffie-Hellman, and still no psk",
    ),
    (STATICS | KEM, Reach::Nothing, "no psk"),
    (EPHEMERALS | KEM, Reach::Nothing, "no psk"),
    (
        STATICS | EPHEMERALS | KEM,
        Reach::Nothing,
        "all but the COI key: the psk alone keeps it closed",
    ),
    (
        COI,
        Reach::Community,
        "mac1 verifies, so community and epoch are known; es is not",
    ),
    (
        COI | KEM,
        Reach::Community,
        "as before: the KEM's secret opens no message",
    ),
    (
        COI | EPHEMERALS,
        Reach::Caller,
        "es is the ephemeral's with a public key; ss needs a static key",
    ),
    (
        COI | EPHEMERALS | KEM,
        Reach::Caller,
        "as before: without ss there is no export",
    ),
    (
        COI | STATICS,
        Reach::Introduction,
        "es and ss open message 1; ee and se are gone with the ephemerals",
    ),
    (
        COI | STATICS | KEM,
        Reach::Introduction,
        "as before: without ee and se there is no export",
    ),
    (
        COI | STATICS | EPHEMERALS,
        Reach::Exchange,
        "also what breaking X25519 gives: the session secret unwraps, the KEM's secret is missing from the root",
    ),
    (
        COI | STATICS | EPHEMERALS | KEM,
        Reach::Packets,
        "every input of the root is known",
    ),
];

/// A session of two real nodes, with everything secret in it.
struct Recorded {
    capture: Capture,
    statics: [[u8; 32]; 2],
    ephemerals: [[u8; 32]; 2],
    kem: [u8; 32],
    texts: Vec<Vec<u8>>,
}

fn record() -> Recorded {
    let mut w = Wire::of(&Enclave::new(), 2);
    w.send(ALICE, BOB, CANARY);
    for n in 0..5 {
        w.send(BOB, ALICE, &[CANARY, &[n]].concat());
        w.send(ALICE, BOB, &[CANARY, &[n]].concat());
    }
    assert_eq!((w.received(ALICE).len(), w.received(BOB).len()), (5, 6));
    let one = |kind: u8, step: Option<u8>| {
        let mut found = w
            .log
            .iter()
            .filter(|d| d.bytes[0] == kind && step.is_none_or(|s| d.bytes[1] == s));
        let bytes = found.next().unwrap().bytes.clone();
        assert!(found.next().is_none(), "a perfect wire repeats nothing");
        bytes
    };
    let sealed = |to: u8| -> Vec<Vec<u8>> {
        let all = w.log.iter().filter(|d| d.bytes[0] == 5 && d.to == outside(to));
        all.map(|d| d.bytes.clone()).collect()
    };
    let capture = Capture {
        initiation: one(1, None),
        response: one(2, None),
        offer: one(4, Some(0)),
        answer: one(4, Some(1)),
        confirm: one(4, Some(2)),
        sealed: [sealed(BOB), sealed(ALICE)],
    };
    let drawn = [ALICE, BOB].map(|n| w.host(n).drawn.try_iter().collect::<Vec<_>>());
    let ephemeral = |drawn: &[Vec<u8>], public: &[u8]| -> [u8; 32] {
        let candidates = drawn.iter().filter_map(|d| <[u8; 32]>::try_from(&d[..]).ok());
        let mut matching = candidates.filter(|d| pair(*d).public() == public);
        matching.next().expect("the node drew its ephemeral key")
    };
    let kem_seed = drawn[0]
        .iter()
        .find(|d| d.len() == 64)
        .expect("the node drew its ML-KEM key");
    let statics = [ALICE, BOB].map(|n| *keys(n).private().expose());
    let ephemerals = [
        ephemeral(&drawn[0], &capture.initiation[8..40]),
        ephemeral(&drawn[1], &capture.response[12..44]),
    ];
    let ciphertext = answer_in(&capture, &leaked_with(0b11_1101, statics, ephemerals, [0; 32]));
    Recorded {
        statics,
        ephemerals,
        kem: shared_of_kem(kem_seed, &drawn[1], &ciphertext),
        texts: (0..5u8)
            .flat_map(|n| {
                let text = [CANARY, &[n]].concat();
                [packet(ALICE, BOB, &text), packet(BOB, ALICE, &text)]
            })
            .chain([packet(ALICE, BOB, CANARY)])
            .collect(),
        capture,
    }
}

/// The KEM's shared secret: encapsulated again with each 32 bytes that the responder drew, until it opens the answer.
fn shared_of_kem(seed: &[u8], responder_drew: &[Vec<u8>], answer: &[u8]) -> [u8; 32] {
    struct Once(Option<Vec<u8>>);
    impl Entropy for Once {
        fn fill(&mut self, out: &mut [u8]) {
            out.copy_from_slice(&self.0.take().expect("one draw"));
        }
    }
    let (decapsulation, offer) = kem::DecapsulationKey::from_seed(&Secret::from_slice(seed).unwrap());
    let again = responder_drew.iter().filter(|d| d.len() == 32).find_map(|randomness| {
        let (ciphertext, shared) = kem::encapsulate(&offer, &mut Once(Some(randomness.clone()))).ok()?;
        (ciphertext[..] == *answer).then_some(shared)
    });
    let shared = again.expect("the responder drew the randomness of its answer");
    assert_eq!(decapsulation.decapsulate(answer.try_into().unwrap()), shared);
    *shared.expose()
}

fn pair(private: [u8; 32]) -> KeyPair {
    KeyPair::from_private(Secret::new(private))
}

/// Bits: COI key, KEM secret, the two static keys, the two ephemeral keys.
fn leaked_with(mask: u8, statics: [[u8; 32]; 2], ephemerals: [[u8; 32]; 2], kem: [u8; 32]) -> Leaked {
    let has = |bit: u8| mask & (1 << bit) != 0;
    let true_key = Enclave::key(1, 1);
    let community = EpochKey {
        key: if has(0) { true_key.key } else { Secret::new([0; 32]) },
        ..true_key
    };
    Leaked {
        publics: statics.map(|s| *pair(s).public()),
        community,
        kem: has(1).then_some(kem),
        statics: [has(2).then(|| pair(statics[0])), has(3).then(|| pair(statics[1]))],
        ephemerals: [has(4).then(|| pair(ephemerals[0])), has(5).then(|| pair(ephemerals[1]))],
    }
}

#[test]
fn all_sixteen_combinations_of_leaked_secrets() {
    let r = record();
    let mut seen = EXPECTED.map(|(set, ..)| set);
    seen.sort_unstable();
    assert_eq!(
        seen,
        std::array::from_fn(|n| u8::try_from(n).unwrap()),
        "every combination once"
    );
    for (set, expected, because) in EXPECTED {
        let bit = |of: u8, mask: u8| if set & of != 0 { mask } else { 0 };
        let mask = bit(COI, 1) | bit(KEM, 2) | bit(STATICS, 0b1100) | bit(EPHEMERALS, 0b11_0000);
        let leaked = leaked_with(mask, r.statics, r.ephemerals, r.kem);
        let (reach, texts) = attack(&r.capture, &leaked);
        assert_eq!(reach, expected, "leaked {set:04b}: {because}");
        if expected == Reach::Packets {
            let sent = r.capture.sealed.iter().map(Vec::len).sum::<usize>();
            assert_eq!(texts.len(), sent, "all of it opens");
            assert!(r.texts.iter().all(|t| texts.contains(t)));
        } else {
            assert_eq!(texts, Vec::<Vec<u8>>::new(), "leaked {set:04b}: {because}");
        }
    }
}

/// The same for each side's keys apart: of each Diffie-Hellman either private key is enough.
#[test]
fn all_sixty_four_combinations_of_both_sides_secrets() {
    let r = record();
    for mask in 0..64u8 {
        let has = |bit: u8| mask & (1 << bit) != 0;
        let (s_i, s_r, e_i, e_r) = (has(2), has(3), has(4), has(5));
        let (es, ss, ee, se) = (e_i || s_r, s_i || s_r, e_i || e_r, s_i || e_r);
        let steps = [
            (has(0), Reach::Community),
            (es, Reach::Caller),
            (ss, Reach::Introduction),
            (ee && se, Reach::Exchange),
            (has(1), Reach::Packets),
        ];
        let passed = steps.into_iter().take_while(|(open, _)| *open);
        let expected = passed.last().map_or(Reach::Nothing, |(_, reach)| reach);
        let leaked = leaked_with(mask, r.statics, r.ephemerals, r.kem);
        assert_eq!(attack(&r.capture, &leaked).0, expected, "{mask:06b}");
    }
}

#[test]
fn a_recorded_session_stays_closed_to_a_later_holder_of_the_community_key_and_both_static_keys() {
    let r = record();
    let later = leaked_with(0b00_1101, r.statics, r.ephemerals, r.kem);
    let (reach, texts) = attack(&r.capture, &later);
    assert_eq!((reach, texts.len()), (Reach::Introduction, 0));
}

/// What member `n` would say about itself in message 1.
fn introduction(counter: u64, statement: &Signed<Statement>) -> Vec<u8> {
    InitiationPayload {
        counter,
        lanes: 1,
        suites: Suites::new(&Suite::ALL).unwrap(),
        preferred: Suite::Aes256Gcm,
        era: 1,
        revision: 0,
        statement: Unverified::parse(statement.bytes()).unwrap(),
    }
    .to_bytes()
}

fn answer(statement: &Signed<Statement>) -> Vec<u8> {
    ResponsePayload {
        lanes: 1,
        suite: Suite::Aes256Gcm,
        era: 1,
        revision: 0,
        statement: Unverified::parse(statement.bytes()).unwrap(),
    }
    .to_bytes()
}

/// An initiation to Bob, whose private part is Mallory's.
fn forged(claims: u8, static_shared: [u8; 32], seed: u64, payload: &[u8]) -> Vec<u8> {
    let community = Enclave::key(1, 1);
    let forgery = ForgedInitiation {
        community: &community,
        responder: *keys(BOB).public(),
        claims: *keys(claims).public(),
        static_shared,
        ephemeral: KeyPair::generate(&mut SeededEntropy::from_number(1000 + seed)),
        index: 77,
        payload,
    };
    forgery.make().0
}

/// Bob has no session with Alice, and answered nothing since `sent` datagrams.
fn bob_is_untouched(w: &mut Wire, sent: usize) {
    w.advance(Duration::from_secs(30));
    assert!(!w.has_session(BOB, ALICE));
    assert_eq!(w.log.len(), sent, "silence");
    assert!(w.received(BOB).is_empty());
}

#[test]
fn the_forger_could_make_a_true_initiation() {
    // Otherwise the tests below would show only that the forger's tools are broken.
    let e = Enclave::new();
    let mut w = Wire::of(&e, 3);
    let true_shared = *keys(MALLORY).agree(keys(BOB).public()).unwrap().expose();
    let payload = introduction(1, &e.statement(MALLORY, 1, 1, HOUR));
    let outcome = w.hand(outside(MALLORY), BOB, &forged(MALLORY, true_shared, 1, &payload));
    assert_eq!(outcome, Outcome::Handled);
    assert_eq!(w.host(BOB).node.poll_transmit().unwrap().bytes[0], 2);
}

#[test]
fn own_static_key_with_anothers_statement_is_refused() {
    let e = Enclave::new();
    let mut w = Wire::of(&e, 3);
    let true_shared = *keys(MALLORY).agree(keys(BOB).public()).unwrap().expose();
    let payload = introduction(1, &e.statement(ALICE, 1, 1, HOUR));
    let outcome = w.inject(outside(ALICE), BOB, &forged(MALLORY, true_shared, 1, &payload));
    assert_eq!(outcome, Outcome::Dropped(DropReason::BadStatement));
    bob_is_untouched(&mut w, 0);
}

#[test]
fn own_static_key_with_a_statement_of_ones_own_making_is_refused() {
    let e = Enclave::new();
    let mut w = Wire::of(&e, 3);
    let mut statement = e.statement(ALICE, 1, 9, HOUR).into_value();
    statement.static_key = *keys(MALLORY).public();
    let statement = Signed::sign(
        statement,
        &coterie_crypto::sign::SigningKey::from_seed(Secret::new([3; 32])),
    );
    let true_shared = *keys(MALLORY).agree(keys(BOB).public()).unwrap().expose();
    let message = forged(MALLORY, true_shared, 1, &introduction(1, &statement));
    assert_eq!(
        w.inject(outside(ALICE), BOB, &message),
        Outcome::Dropped(DropReason::BadStatement)
    );
    bob_is_untouched(&mut w, 0);
}

#[test]
fn anothers_public_static_key_without_its_private_key_is_refused() {
    let e = Enclave::new();
    let payload = introduction(1, &e.statement(ALICE, 1, 1, HOUR));
    let guesses = [
        [0; 32],
        [0xff; 32],
        *keys(MALLORY).agree(keys(BOB).public()).unwrap().expose(),
        *keys(MALLORY).agree(keys(ALICE).public()).unwrap().expose(),
        *keys(BOB).public(),
        *Enclave::key(1, 1).key.expose(),
    ];
    for (seed, guess) in (0..).zip(guesses) {
        let mut w = Wire::of(&e, 3);
        let outcome = w.inject(outside(ALICE), BOB, &forged(ALICE, guess, seed, &payload));
        assert_eq!(outcome, Outcome::Dropped(DropReason::Forged));
        bob_is_untouched(&mut w, 0);
    }
}

#[test]
fn anothers_initiation_replayed_makes_no_session() {
    let e = Enclave::new();
    let mut w = Wire::of(&e, 3);
    w.send(ALICE, BOB, b"true");
    let initiation = w.log[0].bytes.clone();
    let accepted: Vec<_> = w
        .host(BOB)
        .persisted
        .iter()
        .filter_map(|p| match p {
            Persist::Accepted(key, counter) => Some((*key, *counter)),
            Persist::Counter(_) | Persist::Answered(_) | Persist::Live(..) | Persist::Revocations(_) => None,
        })
        .collect();
    assert!(!accepted.is_empty());
    // Bob restarts; the wire is the same.
    let mut config = e.config(BOB, &[1], &others(BOB, 3));
    config.accepted = accepted;
    let mut w = Wire::new(vec![
        (BOB, config),
        (MALLORY, e.config(MALLORY, &[1], &others(MALLORY, 3))),
    ]);
    let community = Enclave::key(1, 1);
    for index in [0u32, 1, 77] {
        let mut message = initiation.clone();
        if index != 0 {
            // The index is outside of Noise; a holder of the community's key can make the mac anew.
            message[4..8].copy_from_slice(&index.to_be_bytes());
            resign_macs(&mut message, &community, keys(BOB).public());
        }
        assert_eq!(
            w.inject(outside(ALICE), BOB, &message),
            Outcome::Dropped(DropReason::Replayed)
        );
        // To another member, for which it was not made.
        resign_macs(&mut message, &community, keys(MALLORY).public());
        assert_eq!(
            w.inject(outside(ALICE), MALLORY, &message),
            Outcome::Dropped(DropReason::Forged)
        );
    }
    bob_is_untouched(&mut w, 0);
}

#[test]
fn a_member_in_a_session_of_its_own_sends_in_nobody_elses_name() {
    let e = Enclave::new();
    // In a community that Bob is not in, Mallory has Alice's inside address too, so that its own node lets it through.
    let mut mallory = e.config(MALLORY, &[1, 2], &[]);
    let mut statement = e.statement(MALLORY, 2, 1, HOUR).into_value();
    statement.addresses = vec![Prefix::host(inside(ALICE)).unwrap()];
    mallory.update.statements[1] = Signed::sign(statement, &e.signer);
    mallory.update.directory = vec![e.entry(BOB, &[1])];
    let bob = e.config(BOB, &[1], &others(BOB, 3));
    let mut w = Wire::new(vec![(BOB, bob), (MALLORY, mallory)]);
    w.send(MALLORY, BOB, b"as myself");
    assert_eq!(w.received(BOB), [packet(MALLORY, BOB, b"as myself")]);
    let now = w.now;
    let host = w.host(MALLORY);
    let outcome = host
        .node
        .handle_inside(&packet(ALICE, BOB, b"as alice"), now, &mut host.buffers);
    assert_eq!(outcome, Outcome::Sent);
    w.settle();
    assert_eq!(w.drops(BOB, DropReason::SourceNotTheirs), 1);
    assert!(w.received(BOB).is_empty());
}

/// Alice calls Bob; Mallory sits between them.
fn between(path: impl FnMut(&mut world::Flying) -> bool + 'static) -> Wire {
    let mut w = Wire::of(&Enclave::new(), 2);
    w.path = Box::new(path);
    w
}

#[test]
fn a_man_in_the_middle_cannot_answer_for_another() {
    let e = Enclave::new();
    let statements = [BOB, MALLORY].map(|n| answer(&e.statement(n, 1, 1, HOUR)));
    let mallory_with_alice = *keys(MALLORY).agree(keys(ALICE).public()).unwrap().expose();
    // Control: with Bob's own static key the same tool makes a response that Alice takes.
    let forged = Outcome::Dropped(DropReason::Forged);
    let cases = [
        (None, Outcome::Handled),
        (Some([0; 32]), forged),
        (Some(mallory_with_alice), forged),
    ];
    for (guess, expected) in cases {
        for payload in &statements {
            let mut w = between(|_| false);
            w.send(ALICE, BOB, b"hello");
            let initiation = w.log[0].bytes.clone();
            let e_a = initiation[8..40].try_into().unwrap();
            let shared = match guess {
                None => [e_a, *keys(ALICE).public()].map(|p| *keys(BOB).agree(&p).unwrap().expose()),
                Some(guess) => [*keys(MALLORY).agree(&e_a).unwrap().expose(), guess],
            };
            let community = Enclave::key(1, 1);
            let forgery = ForgedResponse {
                community: &community,
                responder: *keys(BOB).public(),
                initiator: *keys(ALICE).public(),
                initiation: &initiation,
                shared,
                ephemeral: KeyPair::generate(&mut SeededEntropy::from_number(5)),
                index: 99,
                payload,
            };
            let sent = w.log.len();
            let outcome = w.inject(outside(BOB), ALICE, &forgery.make());
            if guess.is_none() && *payload == statements[1] {
                assert_eq!(
                    outcome,
                    Outcome::Dropped(DropReason::BadStatement),
                    "of Mallory for Bob's key"
                );
            } else {
                assert_eq!(outcome, expected);
            }
            let offered = w.log[sent..].iter().any(|d| d.bytes[0] == 4);
            assert_eq!(offered, outcome == Outcome::Handled);
            assert!(!w.has_session(ALICE, BOB));
        }
    }
}

#[test]
fn a_man_in_the_middle_who_changes_indices_gets_no_session_through() {
    let community = Enclave::key(1, 1);
    let mut w = between(move |d| {
        match d.bytes[0] {
            // Alice's index becomes Mallory's, and comes back as Alice's.
            1 => {
                d.bytes[4..8].iter_mut().for_each(|b| *b ^= 0x55);
                resign_macs(&mut d.bytes, &community, keys(BOB).public());
            }
            2 => {
                d.bytes[8..12].iter_mut().for_each(|b| *b ^= 0x55);
                resign_macs(&mut d.bytes, &community, keys(ALICE).public());
            }
            4 if d.to == outside(ALICE) => d.bytes[4..8].iter_mut().for_each(|b| *b ^= 0x55),
            _ => {}
        }
        true
    });
    w.send(ALICE, BOB, b"hello");
    w.advance(Duration::from_secs(30));
    assert!(!w.has_session(ALICE, BOB) && !w.has_session(BOB, ALICE));
    assert!(w.received(BOB).is_empty());
    assert!(
        w.drops(ALICE, DropReason::Forged) > 0,
        "the answer's header is sealed with its body"
    );
}

#[test]
fn a_man_in_the_middle_who_only_passes_on_reads_nothing() {
    let r = record();
    // Mallory has the community's key, its own keys, and everything that went by.
    let own = pair(*keys(MALLORY).private().expose());
    let leaked = Leaked {
        statics: [None, Some(own)],
        ..leaked_with(1, r.statics, r.ephemerals, r.kem)
    };
    let (reach, texts) = attack(&r.capture, &leaked);
    assert_eq!((reach, texts.len()), (Reach::Community, 0));
}
