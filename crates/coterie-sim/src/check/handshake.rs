//! No handshake is accepted twice, whatever was lost between: the memory here survives what the hosts' does not.

use std::collections::{BTreeMap, BTreeSet};

use coterie_crypto::{dh::PublicKey, hash::sha256};
use coterie_proto::Persist;

use super::{Breach, Promise};

/// Remembers what each enrolment of each host accepted.
#[derive(Debug, Default)]
pub struct HandshakeCheck {
    counters: BTreeMap<(usize, usize, PublicKey), u64>,
    reserved: BTreeMap<(usize, usize), u64>,
    taken: BTreeSet<(usize, usize, [u8; 32])>,
}

impl HandshakeCheck {
    /// A node of `host` under `enrolment` gave a record.
    ///
    /// # Errors
    /// An initiation counter that was accepted before, or a block that was reserved before.
    pub fn recorded(&mut self, host: usize, enrolment: usize, record: &Persist) -> Result<(), Breach> {
        match record {
            Persist::Accepted(key, counter) => {
                let highest = self.counters.entry((host, enrolment, *key)).or_insert(0);
                if *counter <= *highest {
                    let what =
                        format!("host {host} accepted initiation {counter} after {highest} of the same static key");
                    return Err(Breach::new(Promise::Handshake, what));
                }
                *highest = *counter;
            }
            Persist::Counter(end) => {
                let before = self.reserved.entry((host, enrolment)).or_insert(0);
                if *end <= *before {
                    let what = format!("host {host} reserved counters up to {end} after {before}");
                    return Err(Breach::new(Promise::Handshake, what));
                }
                *before = *end;
            }
            Persist::Answered(_) | Persist::Live(..) | Persist::Revocations(_) => {}
        }
        Ok(())
    }

    /// A node of `host` under `enrolment` took an initiation or a question from the wire.
    ///
    /// # Errors
    /// It took the same one before.
    pub fn took(&mut self, host: usize, enrolment: usize, datagram: &[u8]) -> Result<(), Breach> {
        if self.taken.insert((host, enrolment, sha256(&[datagram]))) {
            return Ok(());
        }
        Err(Breach::new(
            Promise::Handshake,
            format!("host {host} took one initiation or question twice"),
        ))
    }

    /// `twin` has the memory of `host` from here on.
    pub fn fork(&mut self, host: usize, twin: usize) {
        let of = |at: &usize| *at == host;
        let counters: Vec<_> = self
            .counters
            .iter()
            .filter(|((h, ..), _)| of(h))
            .map(|((_, e, k), n)| ((twin, *e, *k), *n))
            .collect();
        self.counters.extend(counters);
        let reserved: Vec<_> = self
            .reserved
            .iter()
            .filter(|((h, _), _)| of(h))
            .map(|((_, e), n)| ((twin, *e), *n))
            .collect();
        self.reserved.extend(reserved);
        let taken: Vec<_> = self
            .taken
            .iter()
            .filter(|(h, ..)| of(h))
            .map(|(_, e, d)| (twin, *e, *d))
            .collect();
        self.taken.extend(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_or_block_that_comes_again_is_noticed() {
        let mut c = HandshakeCheck::default();
        let key = [1; 32];
        assert!(c.recorded(0, 0, &Persist::Accepted(key, 5)).is_ok());
        assert!(c.recorded(0, 0, &Persist::Accepted(key, 6)).is_ok());
        assert!(c.recorded(1, 0, &Persist::Accepted(key, 5)).is_ok(), "another host");
        assert!(c.recorded(0, 0, &Persist::Accepted(key, 6)).is_err());
        assert!(c.recorded(0, 0, &Persist::Counter(4097)).is_ok());
        assert!(c.recorded(0, 0, &Persist::Counter(4097)).is_err());
        assert!(c.took(0, 0, b"initiation").is_ok());
        c.fork(0, 2);
        assert!(c.took(0, 0, b"initiation").is_err());
        assert!(
            c.took(2, 0, b"initiation").is_err(),
            "a twin remembers what its memory did"
        );
        assert!(c.recorded(2, 0, &Persist::Accepted(key, 6)).is_err());
    }
}
