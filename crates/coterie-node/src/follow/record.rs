//! What the stream told, kept beside the journal: after kill -9 a node knows its peers before the server, which may be away, says
//! anything, and goes on from the mark that it had.
//!
//! A file of messages as they came (`docs/BUNDLE.md` section 10), behind a head that says whose they are. Objects are verified
//! again when they are read; what cannot be read ends it. Secrets are not in it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coterie_control::follow::{MAX_MESSAGE, Message};
use coterie_crypto::dh::PublicKey;
use coterie_model::EnclaveId;

/// The file of the state directory.
const FILE_NAME: &str = "followed";
const MAGIC: &[u8; 16] = b"coterie follow 1";
const HEAD: usize = 16 + 32 + 16;
/// Beyond this the server is asked for everything anew.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Of our own, beside the stream's kinds: what [`Message::Renew`] asked for is done.
const RENEWED: u8 = 0;
const RENEW: u8 = 5;

/// Whose stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The node's static key.
    pub static_key: PublicKey,
    /// The enclave.
    pub enclave: EnclaveId,
}

impl Owner {
    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..16].copy_from_slice(MAGIC);
        head[16..48].copy_from_slice(&self.static_key);
        head[48..].copy_from_slice(&self.enclave.0);
        head
    }
}

/// What was told before.
#[derive(Debug, Default)]
pub struct Recalled {
    /// Views and epochs, in order.
    pub messages: Vec<Message>,
    /// The last mark, 0 for none.
    pub mark: u64,
    /// A bundle was asked for by the server, and did not come.
    pub renew: bool,
    /// Bytes of the file that could be read.
    length: u64,
}

/// Reads what was told to `owner`; nothing where the file is another's or is not there.
#[must_use]
pub fn recall(state: &Path, owner: &Owner) -> Recalled {
    let mut recalled = Recalled::default();
    let Ok(file) = File::open(state.join(FILE_NAME)) else {
        return recalled;
    };
    let mut reader = BufReader::new(file.take(2 * MAX_BYTES));
    let mut head = [0; HEAD];
    if reader.read_exact(&mut head).is_err() || head != owner.head() {
        return recalled;
    }
    recalled.length = HEAD as u64;
    while let Some(bytes) = next(&mut reader) {
        match bytes.first() {
            Some(&RENEWED) => recalled.renew = false,
            Some(_) | None => match Message::parse(&bytes) {
                Ok(Message::Mark(mark)) => recalled.mark = mark,
                Ok(Message::Renew) => recalled.renew = true,
                Ok(message @ (Message::View(_) | Message::Manifests(..))) => recalled.messages.push(message),
                Ok(Message::Pulse(_) | Message::Revocations(_) | Message::Knocks(_) | Message::Explain { .. })
                | Err(_) => break,
            },
        }
        recalled.length += 4 + bytes.len() as u64;
    }
    recalled
}

fn next(reader: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    reader.read_exact(&mut length).ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    if length > MAX_MESSAGE {
        return None;
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// The file, open for more.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    file: File,
    length: u64,
    mark: u64,
}

impl Record {
    /// Opens what `owner` has, or makes it; with `anew` nothing of before is left.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn open(state: &Path, owner: &Owner, anew: bool) -> io::Result<Self> {
        let path = state.join(FILE_NAME);
        let recalled = if anew {
            Recalled::default()
        } else {
            recall(state, owner)
        };
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let mut length = recalled.length;
        file.set_len(length)?;
        if length == 0 {
            file.write_all(&owner.head())?;
            length = HEAD as u64;
        }
        Ok(Self {
            path,
            file,
            length,
            mark: recalled.mark,
        })
    }

    /// True when it is so long that the server is to tell everything anew.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.length > MAX_BYTES
    }

    /// Keeps a message that came, where it is one to be kept.
    ///
    /// # Errors
    /// What the file system reports; the file is gone then, and a restart learns everything from the server.
    pub fn keep(&mut self, bytes: &[u8], message: &Message) -> io::Result<()> {
        match message {
            Message::View(_) | Message::Manifests(..) | Message::Renew => self.append(bytes),
            Message::Mark(mark) if *mark != self.mark => {
                self.mark = *mark;
                self.append(bytes)
            }
            Message::Mark(_)
            | Message::Pulse(_)
            | Message::Revocations(_)
            | Message::Knocks(_)
            | Message::Explain { .. } => Ok(()),
        }
    }

    /// What the server asked for is done; with `again` it has asked once more since.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub fn renewed(&mut self, again: bool) -> io::Result<()> {
        self.append(&[if again { RENEW } else { RENEWED }])
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], bytes].concat();
        let written = self.file.write_all(&framed);
        if written.is_err() {
            // Half a message would hide what follows it.
            std::fs::remove_file(&self.path)?;
        }
        self.length += 4 + u64::from(length);
        written
    }
}

#[cfg(test)]
mod tests {
    use coterie_control::follow::message;
    use coterie_model::{CommunityTag, Name};

    use super::*;

    fn owner(n: u8) -> Owner {
        Owner {
            static_key: [n; 32],
            enclave: EnclaveId([7; 16]),
        }
    }

    fn keep(record: &mut Record, framed: &[u8]) {
        let message = Message::parse(&framed[4..]).unwrap();
        record.keep(&framed[4..], &message).unwrap();
    }

    fn gone(name: &str) -> Vec<u8> {
        let all = message::change(CommunityTag([1; 16]), &[], &[Name::new(name).unwrap()]);
        all.into_iter().next().unwrap()
    }

    #[test]
    fn what_was_told_is_known_after_a_restart_and_to_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(dir.path(), &owner(1), false).unwrap();
        keep(&mut record, &gone("one"));
        keep(&mut record, &message::renew());
        keep(&mut record, &message::mark(5));
        let length = record.length;
        keep(&mut record, &message::mark(5));
        assert_eq!(record.length, length, "a heartbeat says nothing");
        drop(record);
        let recalled = recall(dir.path(), &owner(1));
        assert_eq!((recalled.messages.len(), recalled.mark, recalled.renew), (1, 5, true));
        let mut record = Record::open(dir.path(), &owner(1), false).unwrap();
        keep(&mut record, &gone("two"));
        record.renewed(false).unwrap();
        keep(&mut record, &message::mark(6));
        drop(record);
        let recalled = recall(dir.path(), &owner(1));
        assert_eq!((recalled.messages.len(), recalled.mark, recalled.renew), (2, 6, false));
        assert_eq!(recall(dir.path(), &owner(2)).mark, 0);
        Record::open(dir.path(), &owner(2), false).unwrap();
        assert_eq!(recall(dir.path(), &owner(1)).mark, 0, "replaced");
    }

    #[test]
    fn a_torn_end_is_left_out_and_what_is_anew_begins_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut record = Record::open(dir.path(), &owner(1), false).unwrap();
        keep(&mut record, &gone("one"));
        keep(&mut record, &message::mark(5));
        keep(&mut record, &gone("two"));
        drop(record);
        let whole = std::fs::read(&path).unwrap();
        for cut in HEAD..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let recalled = recall(dir.path(), &owner(1));
            assert!(recalled.messages.len() <= 1 && [0, 5].contains(&recalled.mark), "{cut}");
            keep(
                &mut Record::open(dir.path(), &owner(1), false).unwrap(),
                &message::mark(9),
            );
            let again = recall(dir.path(), &owner(1));
            assert_eq!(
                (again.messages.len(), again.mark),
                (recalled.messages.len(), 9),
                "{cut}"
            );
        }
        let record = Record::open(dir.path(), &owner(1), true).unwrap();
        assert!(!record.is_full());
        assert_eq!(recall(dir.path(), &owner(1)).messages.len(), 0);
    }
}
