//! What must survive kill -9 and restart beside the identity: our reserved initiation counters, the highest counter
//! accepted from each static key, questions that were answered, which peers had a live session, and, in a file beside it, the
//! newest revocations.
//!
//! A file of 128-byte slots, each with a checksum, written in place: a crash of the process leaves what was written, because
//! the kernel holds it. Reserved counters are also forced to disk, so that they survive a crash of the machine.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use coterie_crypto::{dh::PublicKey, hash::sha256};
use coterie_model::{EnclaveId, Reader, Revocations, Unverified, Writer};
use coterie_proto::Persist;

use crate::{disk::write_private, hex};

const SLOT: usize = 128;
const CHECKSUM: usize = 8;
/// Slots 1 to 128 hold answered questions, 8 in each.
const ANSWERED_SLOTS: u64 = 128;
const NONCES_PER_SLOT: u64 = 8;
const FIRST_PEER: u64 = 1 + ANSWERED_SLOTS;
/// Peers beyond this number are not remembered: 32 MiB of journal.
const MAX_PEERS: u64 = 262_144;

/// The journal, open.
#[derive(Debug)]
pub struct Journal {
    state: PathBuf,
    file: File,
    /// The static key that the counters belong to.
    own: PublicKey,
    serial: u64,
    forked: bool,
    counter: u64,
    answered: Vec<[u8; 12]>,
    next_answered: u64,
    peers: BTreeMap<PublicKey, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    slot: u64,
    accepted: u64,
    live: Option<SocketAddr>,
}

impl Journal {
    /// Opens or makes the journal of `own` in the directory `state`. Each static key has a file of its own: counters of one
    /// mean nothing for another, and come back with their key.
    ///
    /// # Errors
    /// What the file system reports; `InvalidData` when the journal is damaged or when a machine with this key was forked. The
    /// key is of no use then: a counter that starts anew would be refused by every peer, and a forked machine has a twin.
    pub fn open(state: &Path, own: PublicKey) -> io::Result<Self> {
        let name = hex::encode(&sha256(&[b"coterie journal", &own])[..8]);
        let path = state.join(format!("journal-{name}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        let is_new = file.metadata()?.len() == 0;
        let mut journal = Self {
            state: state.to_owned(),
            file,
            own,
            serial: 0,
            forked: false,
            counter: 1,
            answered: Vec::new(),
            next_answered: 0,
            peers: BTreeMap::new(),
        };
        if is_new {
            journal.write_head()?;
            return Ok(journal);
        }
        let unusable = |why: &str| {
            let what = format!("{}: {why}; make new keys and have a new bundle issued", path.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        };
        if !journal.read_head()? {
            return Err(unusable("the journal is damaged, so these keys cannot be used on"));
        }
        if journal.forked {
            return Err(unusable("this machine was forked while it had these keys"));
        }
        journal.read_answered()?;
        journal.read_peers()?;
        Ok(journal)
    }

    /// Remembers for good that the machine was forked: its keys come back on neither twin.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn mark_forked(&mut self) -> io::Result<()> {
        self.forked = true;
        self.write_head()
    }

    /// The first initiation counter that was never reserved.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The highest bundle serial that was accepted.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The highest counter accepted from each static key.
    #[must_use]
    pub fn accepted(&self) -> Vec<(PublicKey, u64)> {
        self.peers
            .iter()
            .filter(|(_, e)| e.accepted > 0)
            .map(|(key, e)| (*key, e.accepted))
            .collect()
    }

    /// Questions answered.
    #[must_use]
    pub fn answered(&self) -> Vec<[u8; 12]> {
        self.answered.clone()
    }

    /// Peers that had a live session.
    #[must_use]
    pub fn live(&self) -> Vec<(PublicKey, SocketAddr)> {
        self.peers.iter().filter_map(|(key, e)| Some((*key, e.live?))).collect()
    }

    /// Remembers the serial of an accepted bundle.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn accept_serial(&mut self, serial: u64) -> io::Result<()> {
        if serial > self.serial {
            self.serial = serial;
            self.write_head()?;
        }
        Ok(())
    }

    /// The same without a wait for the disk: what is returned is to be forced there by somebody who has time
    /// ([`File::sync_data`]).
    ///
    /// # Errors
    /// What the file system reports.
    pub fn note_serial(&mut self, serial: u64) -> io::Result<File> {
        if serial > self.serial {
            self.serial = serial;
            self.write_head_slot()?;
        }
        self.file.try_clone()
    }

    /// Stores a record. It has happened when this returns.
    ///
    /// # Errors
    /// What the file system reports: nothing that depends on the record may be sent then.
    pub fn write(&mut self, record: &Persist) -> io::Result<()> {
        match record {
            Persist::Counter(end) => {
                self.counter = *end;
                self.write_head()
            }
            Persist::Accepted(key, counter) => self.write_peer(*key, |e| e.accepted = e.accepted.max(*counter)),
            Persist::Live(key, endpoint) => self.write_peer(*key, |e| e.live = *endpoint),
            Persist::Answered(nonce) => self.write_answered(*nonce),
            Persist::Revocations(list) => {
                let path = self.revocations_path(&list.enclave);
                // Each start is told what it kept.
                if std::fs::read(&path).is_ok_and(|kept| kept == list.bytes()) {
                    return Ok(());
                }
                write_private(&path, list.bytes())
            }
        }
    }

    /// The newest revocations of an enclave that were learnt, as they were signed; what is damaged is as if it had never been
    /// learnt. They are the enclave's, whatever keys this machine had then.
    #[must_use]
    pub fn revocations(&self, enclave: &EnclaveId) -> Option<Unverified<Revocations>> {
        let bytes = std::fs::read(self.revocations_path(enclave)).ok()?;
        Unverified::parse(&bytes).ok()
    }

    fn revocations_path(&self, enclave: &EnclaveId) -> PathBuf {
        let name: String = enclave.0.iter().take(8).map(|b| format!("{b:02x}")).collect();
        self.state.join(format!("revocations-{name}"))
    }

    fn write_head(&mut self) -> io::Result<()> {
        self.write_head_slot()?;
        self.file.sync_data()
    }

    fn write_head_slot(&self) -> io::Result<()> {
        let mut w = Writer::new();
        w.bytes(b"coterie journal")
            .u8(1)
            .bytes(&self.own)
            .u64(self.counter)
            .u64(self.serial)
            .u8(u8::from(self.forked));
        self.write_slot(0, w)
    }

    fn read_head(&mut self) -> io::Result<bool> {
        let Some(slot) = self.read_slot(0)? else {
            return Ok(false);
        };
        let mut r = Reader::new(&slot);
        let mut read = || {
            let magic = r.take(15, "magic")?;
            let (version, own) = (r.u8("version")?, r.array::<32>("static key")?);
            Ok::<_, coterie_model::Malformed>((
                magic == b"coterie journal" && version == 1,
                own,
                r.u64("counter")?,
                r.u64("serial")?,
                r.u8("forked")? != 0,
            ))
        };
        let Ok((true, own, counter, serial, forked)) = read() else {
            return Ok(false);
        };
        if own != self.own {
            return Ok(false);
        }
        self.counter = counter.max(1);
        self.serial = serial;
        self.forked = forked;
        Ok(true)
    }

    fn write_answered(&mut self, nonce: [u8; 12]) -> io::Result<()> {
        let capacity = ANSWERED_SLOTS * NONCES_PER_SLOT;
        let at = self.next_answered % capacity;
        let index = usize::try_from(at).map_err(io::Error::other)?;
        if index < self.answered.len() {
            self.answered[index] = nonce;
        } else {
            self.answered.push(nonce);
        }
        self.next_answered = at + 1;
        let first = index - index % 8;
        let mut w = Writer::new();
        let group: Vec<_> = self.answered.iter().skip(first).take(8).collect();
        w.u64(self.next_answered)
            .u8(u8::try_from(group.len()).map_err(io::Error::other)?);
        group.iter().for_each(|n| {
            w.bytes(*n);
        });
        self.write_slot(1 + at / NONCES_PER_SLOT, w)
    }

    fn read_answered(&mut self) -> io::Result<()> {
        let mut newest = 0;
        for slot in 0..ANSWERED_SLOTS {
            let Some(bytes) = self.read_slot(1 + slot)? else { break };
            let mut r = Reader::new(&bytes);
            let (Ok(next), Ok(count)) = (r.u64("next"), r.u8("count")) else {
                break;
            };
            newest = newest.max(next);
            for _ in 0..count.min(8) {
                if let Ok(nonce) = r.array("nonce") {
                    self.answered.push(nonce);
                }
            }
        }
        self.next_answered = newest;
        Ok(())
    }

    fn write_peer(&mut self, key: PublicKey, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        let free = FIRST_PEER + u64::try_from(self.peers.len()).map_err(io::Error::other)?;
        if !self.peers.contains_key(&key) && free >= FIRST_PEER + MAX_PEERS {
            return Err(io::Error::other(
                "the journal is full: more than 262,144 peers were met under one static key",
            ));
        }
        let entry = self.peers.entry(key).or_insert(Entry {
            slot: free,
            accepted: 0,
            live: None,
        });
        change(entry);
        let entry = *entry;
        let mut w = Writer::new();
        w.bytes(&key).u64(entry.accepted);
        match entry.live {
            Some(endpoint) => w.u8(1).endpoint(&endpoint),
            None => w.u8(0),
        };
        self.write_slot(entry.slot, w)
    }

    fn read_peers(&mut self) -> io::Result<()> {
        let slots = self.file.metadata()?.len().div_ceil(SLOT as u64);
        for slot in FIRST_PEER..slots {
            // A torn slot keeps its place, so that later ones keep theirs.
            let entry = self.read_slot(slot)?.and_then(|bytes| read_entry(&bytes, slot));
            let (key, entry) = entry.unwrap_or_else(|| {
                (
                    placeholder(slot),
                    Entry {
                        slot,
                        accepted: 0,
                        live: None,
                    },
                )
            });
            self.peers.insert(key, entry);
        }
        Ok(())
    }

    fn write_slot(&self, slot: u64, w: Writer) -> io::Result<()> {
        let mut bytes = w.into_bytes();
        bytes.resize(SLOT - CHECKSUM, 0);
        let sum = sha256(&[&slot.to_be_bytes(), &bytes]);
        bytes.extend_from_slice(&sum[..CHECKSUM]);
        self.file.write_all_at(&bytes, slot * SLOT as u64)
    }

    fn read_slot(&self, slot: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; SLOT];
        match self.file.read_exact_at(&mut bytes, slot * SLOT as u64) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let sum = bytes.split_off(SLOT - CHECKSUM);
        Ok((sha256(&[&slot.to_be_bytes(), &bytes])[..CHECKSUM] == sum[..]).then_some(bytes))
    }
}

fn read_entry(bytes: &[u8], slot: u64) -> Option<(PublicKey, Entry)> {
    let mut r = Reader::new(bytes);
    let key = r.array("static key").ok()?;
    let accepted = r.u64("accepted").ok()?;
    let live = if r.u8("live").ok()? == 1 {
        r.endpoint("endpoint").ok()
    } else {
        None
    };
    Some((key, Entry { slot, accepted, live }))
}

/// A key that nobody has, for a slot that cannot be read.
fn placeholder(slot: u64) -> PublicKey {
    let mut key = [0xff; 32];
    key[..8].copy_from_slice(&slot.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_survives_and_each_key_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let endpoint: SocketAddr = "[2001:db8::1]:4747".parse().unwrap();
        let mut j = Journal::open(path, [1; 32]).unwrap();
        j.write(&Persist::Counter(4097)).unwrap();
        j.write(&Persist::Accepted([2; 32], 7)).unwrap();
        j.write(&Persist::Live([3; 32], Some(endpoint))).unwrap();
        j.write(&Persist::Accepted([2; 32], 9)).unwrap();
        for n in 0..1030u16 {
            let mut nonce = [0; 12];
            nonce[..2].copy_from_slice(&n.to_be_bytes());
            j.write(&Persist::Answered(nonce)).unwrap();
        }
        j.accept_serial(5).unwrap();
        drop(j);
        let j = Journal::open(path, [1; 32]).unwrap();
        assert_eq!((j.counter(), j.serial()), (4097, 5));
        assert_eq!(j.accepted(), [([2; 32], 9)]);
        assert_eq!(j.live(), [([3; 32], endpoint)]);
        assert_eq!(j.answered().len(), 1024);
        assert!(
            j.answered().contains(&[4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            "the newest"
        );
        drop(j);
        let j = Journal::open(path, [9; 32]).unwrap();
        assert_eq!((j.counter(), j.serial(), j.accepted().len()), (1, 0, 0));
    }

    #[test]
    fn a_torn_slot_loses_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let mut j = Journal::open(path, [1; 32]).unwrap();
        for n in 2..5u8 {
            j.write(&Persist::Accepted([n; 32], 7)).unwrap();
        }
        drop(j);
        overwrite(path, (FIRST_PEER + 1) * SLOT as u64);
        let mut j = Journal::open(path, [1; 32]).unwrap();
        assert_eq!(j.accepted(), [([2; 32], 7), ([4; 32], 7)]);
        j.write(&Persist::Accepted([9; 32], 1)).unwrap();
        drop(j);
        assert_eq!(Journal::open(path, [1; 32]).unwrap().accepted().len(), 3);
    }

    fn overwrite(state: &Path, offset: u64) {
        let file = std::fs::read_dir(state).unwrap().next().unwrap().unwrap().path();
        let file = OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(&[0xaa; 10], offset).unwrap();
    }

    #[test]
    fn keys_whose_counter_is_lost_or_that_were_forked_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        Journal::open(path, [1; 32]).unwrap();
        overwrite(path, 20);
        assert_eq!(
            Journal::open(path, [1; 32]).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        Journal::open(path, [2; 32]).unwrap().mark_forked().unwrap();
        assert_eq!(
            Journal::open(path, [2; 32]).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
