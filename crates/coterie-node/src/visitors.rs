//! Whom this node let in as a door, so that a call is answered once, also after a restart: a file of slots written in place,
//! which are free again when a token is gone. A crash of the process leaves what was written, because the kernel holds it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use coterie_crypto::{dh::PublicKey, hash::sha256};
use coterie_model::{CommunityTag, Reader, Writer};
use coterie_proto::bootstrap::{Caller, MAX_VISITORS, Record};

/// Token, static key, counter, checksum.
const SLOT: usize = 16 + 32 + 8 + 8;
const FILE_NAME: &str = "visitors";

/// The file, open.
#[derive(Debug)]
pub struct Visitors {
    file: File,
    /// The door's static key: what another one accepted means nothing.
    own: PublicKey,
    slots: BTreeMap<Caller, u64>,
    free: Vec<u64>,
}

impl Visitors {
    /// Opens or makes the file in the directory `state`; with it come the counters that were stored. What another key's door
    /// stored, or what is damaged, is as if it had never been.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn open(state: &Path, own: PublicKey) -> io::Result<(Self, Vec<(Caller, u64)>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(state.join(FILE_NAME))?;
        let mut this = Self {
            file,
            own,
            slots: BTreeMap::new(),
            free: Vec::new(),
        };
        let mut found = Vec::new();
        let slots = (this.file.metadata()?.len() / SLOT as u64).min(MAX_VISITORS as u64);
        for slot in 0..slots {
            let mut bytes = [0; SLOT];
            this.file.read_exact_at(&mut bytes, slot * SLOT as u64)?;
            match this
                .decode(slot, &bytes)
                .filter(|(caller, _)| !this.slots.contains_key(caller))
            {
                Some((caller, counter)) => {
                    this.slots.insert(caller, slot);
                    found.push((caller, counter));
                }
                None => this.free.push(slot),
            }
        }
        Ok((this, found))
    }

    /// Stores what a door says is to be stored. It has happened when this returns.
    ///
    /// # Errors
    /// What the file system reports: nothing that depends on it may be sent then.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Accepted(caller, counter) => {
                let slot = match self.slots.get(caller) {
                    Some(slot) => *slot,
                    None => {
                        let next = u64::try_from(self.slots.len()).map_err(io::Error::other)?;
                        self.free.pop().unwrap_or(next)
                    }
                };
                self.slots.insert(*caller, slot);
                let bytes = self.encode(slot, caller, *counter);
                self.file.write_all_at(&bytes, slot * SLOT as u64)
            }
            Record::Forgotten(caller) => {
                let Some(slot) = self.slots.remove(caller) else {
                    return Ok(());
                };
                self.free.push(slot);
                self.file.write_all_at(&[0; SLOT], slot * SLOT as u64)
            }
        }
    }

    fn encode(&self, slot: u64, caller: &Caller, counter: u64) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(&caller.token.0).bytes(&caller.static_key).u64(counter);
        let mut bytes = w.into_bytes();
        let sum = self.checksum(slot, &bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    fn decode(&self, slot: u64, bytes: &[u8; SLOT]) -> Option<(Caller, u64)> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        if *sum != self.checksum(slot, body) {
            return None;
        }
        let mut r = Reader::new(body);
        let caller = Caller {
            token: CommunityTag(r.array("token").ok()?),
            static_key: r.array("static key").ok()?,
        };
        Some((caller, r.u64("counter").ok()?))
    }

    fn checksum(&self, slot: u64, body: &[u8]) -> [u8; 8] {
        let digest = sha256(&[b"coterie visitors", &self.own, &slot.to_be_bytes(), body]);
        let mut sum = [0; 8];
        sum.copy_from_slice(&digest[..8]);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(n: u8) -> Caller {
        Caller {
            token: CommunityTag([n % 2; 16]),
            static_key: [n; 32],
        }
    }

    #[test]
    fn visitors_survive_and_their_slots_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut v, found) = Visitors::open(dir.path(), [1; 32]).unwrap();
        assert!(found.is_empty());
        for n in 0..10 {
            v.write(&Record::Accepted(caller(n), 1)).unwrap();
        }
        v.write(&Record::Accepted(caller(3), 9)).unwrap();
        v.write(&Record::Forgotten(caller(4))).unwrap();
        let length = v.file.metadata().unwrap().len();
        drop(v);
        let (mut v, found) = Visitors::open(dir.path(), [1; 32]).unwrap();
        assert_eq!(found.len(), 9);
        assert!(found.contains(&(caller(3), 9)) && !found.iter().any(|(c, _)| *c == caller(4)));
        v.write(&Record::Accepted(caller(50), 2)).unwrap();
        assert_eq!(v.file.metadata().unwrap().len(), length, "in the place of whoever went");
        v.write(&Record::Accepted(caller(51), 2)).unwrap();
        assert!(v.file.metadata().unwrap().len() > length);
        drop(v);
        assert_eq!(Visitors::open(dir.path(), [1; 32]).unwrap().1.len(), 11);
        assert!(
            Visitors::open(dir.path(), [2; 32]).unwrap().1.is_empty(),
            "another door"
        );
    }
}
