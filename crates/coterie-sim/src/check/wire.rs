//! What passes on the wire: no (key, nonce) twice, no plaintext, no control datagram above its size.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use coterie_proto::wire::{
    MAX_CONTROL_DATAGRAM,
    datagram::{self, Datagram},
};

use super::{Breach, Promise};
use crate::packet::Canary;

/// Watches every datagram as it leaves a host.
///
/// A key is named by the machine that opens with it and the receiver index that it gave; both instances of a fork are one
/// machine, because they hold the same keys.
#[derive(Debug)]
pub struct WireCheck {
    canary: Canary,
    sealed: BTreeMap<(usize, u32, u8, [u8; 4], u64), u64>,
    provisional: BTreeMap<(usize, u32, u8), u64>,
    ephemerals: BTreeMap<[u8; 32], u64>,
}

impl WireCheck {
    /// A watch for `canary`.
    #[must_use]
    pub const fn new(canary: Canary) -> Self {
        Self {
            canary,
            sealed: BTreeMap::new(),
            provisional: BTreeMap::new(),
            ephemerals: BTreeMap::new(),
        }
    }

    /// A datagram leaves for machine `to`; `control` when it is no packet of the inside; `forked` when its sender runs twice.
    ///
    /// A machine that is forked in the middle of a handshake goes on with it twice: WIRE section 3.6 gives its frames no salt,
    /// but a cipher of which a repeated nonce reveals only equality. Of nobody else is a repeat accepted.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn leaves(&mut self, to: usize, bytes: &[u8], control: bool, forked: bool) -> Result<(), Breach> {
        if self.canary.is_in(bytes) {
            return Err(Breach::new(
                Promise::Plaintext,
                "a packet's canary stands in clear in a datagram",
            ));
        }
        if control && bytes.len() > MAX_CONTROL_DATAGRAM {
            return Err(Breach::new(
                Promise::Size,
                format!("a control datagram of {} bytes", bytes.len()),
            ));
        }
        let whole = digest(bytes);
        match datagram::parse(bytes) {
            Ok(Datagram::Sealed(h)) => {
                let at = (to, h.receiver, h.lane, h.salt, h.counter);
                same(&mut self.sealed, at, whole, || {
                    format!(
                        "index {:08x} lane {} counter {} has two ciphertexts under one salt",
                        h.receiver, h.lane, h.counter
                    )
                })
            }
            Ok(Datagram::Provisional { .. }) if forked => Ok(()),
            Ok(Datagram::Provisional { step, receiver }) => {
                same(&mut self.provisional, (to, receiver, step.number()), whole, || {
                    format!("{step:?} to {receiver:08x} has two ciphertexts")
                })
            }
            // Noise's keys are a function of the ephemeral; mac2 is no part of what they seal.
            Ok(Datagram::Initiation { .. }) => self.ephemeral(bytes, 8),
            Ok(Datagram::Response { .. }) => self.ephemeral(bytes, 12),
            Ok(Datagram::Cookie { .. } | Datagram::Question | Datagram::Answer) => Ok(()),
            Err(reason) => Err(Breach::new(
                Promise::Size,
                format!("a host sent what is no datagram of version 1: {}", reason.name()),
            )),
        }
    }

    fn ephemeral(&mut self, bytes: &[u8], header: usize) -> Result<(), Breach> {
        let Some(key) = bytes.get(header..).and_then(|b| b.first_chunk::<32>()) else {
            return Ok(());
        };
        let sealed = digest(&bytes[header..bytes.len() - 32]);
        same(&mut self.ephemerals, *key, sealed, || {
            "one ephemeral key stands in two handshakes".into()
        })
    }
}

fn same<K: Ord>(seen: &mut BTreeMap<K, u64>, at: K, whole: u64, what: impl FnOnce() -> String) -> Result<(), Breach> {
    if *seen.entry(at).or_insert(whole) == whole {
        Ok(())
    } else {
        Err(Breach::new(Promise::Nonce, what()))
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use coterie_proto::wire::datagram::{SealedHeader, Step, provisional_header};

    use super::*;

    fn sealed(salt: u8, counter: u64, text: u8) -> Vec<u8> {
        let mut d = SealedHeader {
            lane: 0,
            receiver: 9,
            salt: [salt; 4],
            counter,
        }
        .to_bytes()
        .to_vec();
        d.extend_from_slice(&[text; 40]);
        d
    }

    fn promise(result: Result<(), Breach>) -> Option<Promise> {
        result.err().map(|b| b.promise)
    }

    #[test]
    fn one_nonce_with_two_texts_is_noticed() {
        let mut w = WireCheck::new(Canary([7; 8]));
        assert_eq!(w.leaves(0, &sealed(1, 5, 1), false, false), Ok(()));
        assert_eq!(w.leaves(0, &sealed(1, 5, 1), false, false), Ok(()), "a repeat");
        assert_eq!(w.leaves(0, &sealed(2, 5, 2), false, false), Ok(()), "another salt");
        assert_eq!(w.leaves(1, &sealed(1, 5, 2), false, false), Ok(()), "another key");
        assert_eq!(
            promise(w.leaves(0, &sealed(1, 5, 2), false, false)),
            Some(Promise::Nonce)
        );
    }

    #[test]
    fn one_step_with_two_texts_and_one_ephemeral_in_two_handshakes_are_noticed() {
        let mut w = WireCheck::new(Canary([7; 8]));
        for (text, expected) in [(1, None), (1, None), (2, Some(Promise::Nonce))] {
            let mut d = provisional_header(Step::Offer, 3).to_vec();
            d.extend_from_slice(&[text; 40]);
            assert_eq!(promise(w.leaves(0, &d, true, false)), expected);
        }
        for (text, expected) in [(1, None), (1, None), (2, Some(Promise::Nonce))] {
            let mut d = vec![1, 0, 0, 0, 0, 0, 0, 1];
            d.extend_from_slice(&[4; 32]);
            d.resize(200, text);
            assert_eq!(promise(w.leaves(0, &d, true, false)), expected);
        }
    }

    #[test]
    fn a_step_may_repeat_only_of_a_machine_that_runs_twice() {
        let mut w = WireCheck::new(Canary([7; 8]));
        let step = |text| {
            let mut d = provisional_header(Step::Confirm, 3).to_vec();
            d.extend_from_slice(&[text; 40]);
            d
        };
        assert_eq!(w.leaves(0, &step(1), true, false), Ok(()));
        assert_eq!(w.leaves(0, &step(2), true, true), Ok(()));
        assert_eq!(promise(w.leaves(0, &step(3), true, false)), Some(Promise::Nonce));
    }

    #[test]
    fn plaintext_size_and_nonsense_are_noticed() {
        let mut w = WireCheck::new(Canary([7; 8]));
        let mut clear = sealed(1, 5, 1);
        clear.extend_from_slice(&[7; 8]);
        assert_eq!(promise(w.leaves(0, &clear, false, false)), Some(Promise::Plaintext));
        let mut long = sealed(1, 6, 1);
        long.resize(1233, 0);
        assert_eq!(promise(w.leaves(0, &long, true, false)), Some(Promise::Size));
        assert_eq!(promise(w.leaves(0, &long, false, false)), None);
        assert_eq!(promise(w.leaves(0, &[99; 40], false, false)), Some(Promise::Size));
    }
}
