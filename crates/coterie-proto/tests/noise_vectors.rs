//! Our Noise against vectors that others published, and against `snow` in both roles.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use coterie_crypto::{
    Entropy, Secret,
    aead::{Key, Suite},
    dh::KeyPair,
};
use coterie_proto::handshake::noise::{Claimed, Established, Initiator};
use proptest::prelude::*;

const PATTERN: &str = "Noise_IKpsk0_25519_AESGCM_SHA256";

/// Gives the bytes that it was given, once.
struct Given(Option<[u8; 32]>);

impl Entropy for Given {
    fn fill(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.take().expect("one draw of 32 bytes"));
    }
}

/// Everything that goes into a handshake.
#[derive(Debug, Clone)]
struct Inputs {
    prologue: Vec<u8>,
    psk: [u8; 32],
    statics: [[u8; 32]; 2],
    ephemerals: [[u8; 32]; 2],
    payloads: [Vec<u8>; 2],
}

/// Everything that comes out.
struct Outputs {
    messages: [Vec<u8>; 2],
    initiator: Established,
    responder: Established,
}

fn pair(private: [u8; 32]) -> KeyPair {
    KeyPair::from_private(Secret::new(private))
}

fn run(inputs: &Inputs) -> Outputs {
    let [initiator, responder] = inputs.statics.map(pair);
    let psk = Secret::new(inputs.psk);
    let mut first = vec![];
    let waiting = Initiator::start(
        &initiator,
        responder.public(),
        &psk,
        &inputs.prologue,
        &inputs.payloads[0],
        &mut Given(Some(inputs.ephemerals[0])),
        &mut first,
    )
    .unwrap();
    let claimed = Claimed::read(&responder, &psk, &inputs.prologue, &first).unwrap();
    assert_eq!(claimed.static_key(), initiator.public());
    let (proved, payload) = claimed.prove(&responder).unwrap();
    assert_eq!(payload, inputs.payloads[0]);
    let mut second = vec![];
    let at_responder = proved
        .respond(&inputs.payloads[1], &mut Given(Some(inputs.ephemerals[1])), &mut second)
        .unwrap();
    let (at_initiator, payload) = waiting.finish(&initiator, &second).unwrap();
    assert_eq!(payload, inputs.payloads[1]);
    Outputs {
        messages: [first, second],
        initiator: at_initiator,
        responder: at_responder,
    }
}

fn ends_agree(outputs: &Outputs) -> bool {
    let (a, b) = (&outputs.initiator, &outputs.responder);
    let keys = [&a.initiator_key, &a.responder_key, &a.export];
    let distinct = keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2];
    distinct && keys == [&b.initiator_key, &b.responder_key, &b.export] && a.hash == b.hash
}

#[test]
fn published_vectors_come_out_byte_for_byte() {
    let file: serde_json::Value = serde_json::from_str(include_str!("vectors/noise_ikpsk0.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 4);
    for vector in vectors {
        assert_eq!(vector["protocol"], PATTERN);
        let bytes = |v: &serde_json::Value| hex(v.as_str().unwrap());
        let key = |name: &str| <[u8; 32]>::try_from(bytes(&vector[name])).unwrap();
        let messages: Vec<(Vec<u8>, Vec<u8>)> = vector["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| (bytes(&m["payload"]), bytes(&m["ciphertext"])))
            .collect();
        let outputs = run(&Inputs {
            prologue: bytes(&vector["prologue"]),
            psk: key("preshared_key"),
            statics: [key("initiator_static"), key("responder_static")],
            ephemerals: [key("initiator_ephemeral"), key("responder_ephemeral")],
            payloads: [messages[0].0.clone(), messages[1].0.clone()],
        });
        assert_eq!(outputs.messages[0], messages[0].1);
        assert_eq!(outputs.messages[1], messages[1].1);
        assert!(ends_agree(&outputs));
        // Messages 3 and 4 are transport messages under the two keys of the split, with nonce zero.
        let keys = [&outputs.initiator.initiator_key, &outputs.responder.responder_key];
        for (key, (payload, ciphertext)) in keys.into_iter().zip(&messages[2..]) {
            let mut sealed = payload.clone();
            let tag = Key::new(Suite::Aes256Gcm, key).seal([0; 12], &[], &mut sealed);
            sealed.extend_from_slice(&tag);
            assert_eq!(sealed, *ciphertext);
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// One end of a handshake in the library that is held against ours.
fn oracle(inputs: &Inputs, initiator: bool) -> snow::HandshakeState {
    let responder_public = *pair(inputs.statics[1]).public();
    let own = usize::from(!initiator);
    let builder = snow::Builder::new(PATTERN.parse().unwrap())
        .prologue(&inputs.prologue)
        .unwrap()
        .psk(0, &inputs.psk)
        .unwrap()
        .local_private_key(&inputs.statics[own])
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&inputs.ephemerals[own]);
    if initiator {
        builder
            .remote_public_key(&responder_public)
            .unwrap()
            .build_initiator()
            .unwrap()
    } else {
        builder.build_responder().unwrap()
    }
}

fn write(state: &mut snow::HandshakeState, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() + 200];
    let len = state.write_message(payload, &mut out).unwrap();
    out.truncate(len);
    out
}

fn read(state: &mut snow::HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; message.len()];
    let len = state.read_message(message, &mut out).unwrap();
    out.truncate(len);
    out
}

fn inputs() -> impl Strategy<Value = Inputs> {
    let payload = || prop::collection::vec(any::<u8>(), 0..900);
    (
        prop::collection::vec(any::<u8>(), 0..80),
        any::<[u8; 32]>(),
        any::<[[u8; 32]; 2]>(),
        any::<[[u8; 32]; 2]>(),
        [payload(), payload()],
    )
        .prop_map(|(prologue, psk, statics, ephemerals, payloads)| Inputs {
            prologue,
            psk,
            statics,
            ephemerals,
            payloads,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn equals_snow_in_both_roles(inputs in inputs()) {
        let ours = run(&inputs);
        prop_assert!(ends_agree(&ours));
        let (mut initiator, mut responder) = (oracle(&inputs, true), oracle(&inputs, false));
        // Snow's messages are ours, and snow reads ours.
        prop_assert_eq!(&write(&mut initiator, &inputs.payloads[0]), &ours.messages[0]);
        prop_assert_eq!(&read(&mut responder, &ours.messages[0]), &inputs.payloads[0]);
        let initiator_public = *pair(inputs.statics[0]).public();
        prop_assert_eq!(responder.get_remote_static().unwrap(), &initiator_public);
        prop_assert_eq!(&write(&mut responder, &inputs.payloads[1]), &ours.messages[1]);
        prop_assert_eq!(&read(&mut initiator, &ours.messages[1]), &inputs.payloads[1]);
        for state in [&mut initiator, &mut responder] {
            prop_assert_eq!(state.get_handshake_hash(), &ours.initiator.hash);
            let (initiator_key, responder_key) = state.dangerously_get_raw_split();
            prop_assert_eq!(&initiator_key, ours.initiator.initiator_key.expose());
            prop_assert_eq!(&responder_key, ours.initiator.responder_key.expose());
        }
    }

    #[test]
    fn one_changed_bit_is_refused(inputs in inputs(), which in any::<prop::sample::Index>(), bit in 0u8..8) {
        let ours = run(&inputs);
        let [initiator, responder] = inputs.statics.map(pair);
        let psk = Secret::new(inputs.psk);
        let mut first = ours.messages[0].clone();
        let at = which.index(first.len());
        first[at] ^= 1 << bit;
        // The top bit of a public key is ignored by X25519 (RFC 7748 section 5), and not by the hash.
        let taken = Claimed::read(&responder, &psk, &inputs.prologue, &first).and_then(|c| c.prove(&responder));
        prop_assert!(taken.is_err());
        let mut second = ours.messages[1].clone();
        let at = which.index(second.len());
        second[at] ^= 1 << bit;
        let waiting = Initiator::start(
            &initiator,
            responder.public(),
            &psk,
            &inputs.prologue,
            &inputs.payloads[0],
            &mut Given(Some(inputs.ephemerals[0])),
            &mut vec![],
        )
        .unwrap();
        prop_assert!(waiting.finish(&initiator, &second).is_err());
    }
}
