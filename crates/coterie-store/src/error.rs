//! What can go wrong, and what to do about it.

use std::path::PathBuf;

use crate::sqlite::{Cause, cause};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk, or what the database may have of it, is full. Nothing of the transaction was kept; the store works again
    /// as soon as there is room.
    #[error("{doing}: the disk is full, nothing was written; make room where the database is, then try again")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// What the database says.
        source: Box<dyn core::error::Error + Send + Sync>,
    },
    /// The database cannot be written: it is read-only, or its disk takes nothing any more.
    #[error(
        "{doing}: the database is read-only; see the file's mode and owner, how its file system is mounted, and what the kernel says of its disk"
    )]
    ReadOnly {
        /// What was being done.
        doing: &'static str,
        /// What the database says.
        source: Option<Box<dyn core::error::Error + Send + Sync>>,
    },
    /// Somebody else held the database for longer than we wait.
    #[error("{doing}: somebody else holds the database; see what else has {} open", path.display())]
    Busy {
        /// What was being done.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// What the database says.
        source: Box<dyn core::error::Error + Send + Sync>,
    },
    /// Another process has opened the database for writing.
    #[error("{} is in use by another process; a database has one server at a time: stop the other one", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The sealed values were sealed under another root key.
    #[error("the root key does not open {}: it is the key of another server, or was replaced; give the key that the database was last used with", path.display())]
    WrongRootKey {
        /// The database.
        path: PathBuf,
    },
    /// The database was written by a newer program.
    #[error("{} has schema {found}, and this program knows schemas up to {known}; use the program that wrote it, or restore a backup made before its upgrade", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The database was written by an older program, and was opened for reading alone.
    #[error("{} has schema {found}, and this program reads schema {known}; start the server on it once, which brings it up to date", path.display())]
    Older {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The one that this program reads.
        known: u32,
    },
    /// The file is no database of ours.
    #[error("{} is no database of a Coterie server ({reason}); name another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How it is told.
        reason: String,
    },
    /// A value that was read cannot be what was written.
    #[error("{what} is damaged: {reason}; run the check of the database, and restore a backup if it agrees")]
    Damaged {
        /// What, with its row.
        what: String,
        /// How it is told.
        reason: String,
    },
    /// There is nothing of this kind by this id or name (or it is somebody else's).
    #[error("there is no such {what}")]
    NotFound {
        /// The kind of thing.
        what: &'static str,
    },
    /// The name, or the id, is taken.
    #[error("there is such a {what} already")]
    Exists {
        /// The kind of thing.
        what: &'static str,
    },
    /// The thing still holds others.
    #[error("the {what} still has {of}; remove them first")]
    NotEmpty {
        /// The kind of thing.
        what: &'static str,
        /// What it holds.
        of: &'static str,
    },
    /// Somebody else changed the enclave since it was read.
    #[error(
        "the enclave is at version {found}, not {expected}: somebody else changed it; read it again and decide anew"
    )]
    Conflict {
        /// The version that was read.
        expected: u64,
        /// The version that it has.
        found: u64,
    },
    /// The static key belongs to a live enrolment, in this enclave or another.
    #[error("the static key belongs to an enrolment already; a machine makes a new key for each")]
    StaticKeyTaken,
    /// A number or a text that no table holds.
    #[error("{what} is out of range")]
    OutOfRange {
        /// Which.
        what: &'static str,
    },
    /// An earlier statement of this transaction failed, and may have ended it.
    #[error("an earlier step of this transaction failed; nothing of it is kept: begin another")]
    Failed,
    /// A file that is to be made exists.
    #[error("{} exists, and nothing is overwritten; move it away first", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// A backup does not pass the check.
    #[error("{} does not pass the check: {first}; it was not used", path.display())]
    BadBackup {
        /// The file.
        path: PathBuf,
        /// The first finding.
        first: String,
    },
    /// The operating system refused something.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The database refused something.
    #[error("{doing}: the database failed; see the reason, and run its check")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What the database says.
        source: Box<dyn core::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// An error of the database, told apart.
    pub(crate) fn of(doing: &'static str, path: &std::path::Path, error: sqlx::Error) -> Self {
        match cause(&error) {
            Cause::Full => Self::Full {
                doing,
                source: Box::new(error),
            },
            Cause::ReadOnly => Self::ReadOnly {
                doing,
                source: Some(Box::new(error)),
            },
            Cause::Busy => Self::Busy {
                doing,
                path: path.to_owned(),
                source: Box::new(error),
            },
            Cause::NotADatabase => Self::Foreign {
                path: path.to_owned(),
                reason: error.to_string(),
            },
            Cause::Corrupt => Self::damaged(format!("the file {}", path.display()), format!("{doing}: {error}")),
            Cause::Other => Self::Database {
                doing,
                source: Box::new(error),
            },
        }
    }

    /// An error of the operating system, told apart.
    pub(crate) fn io(doing: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{AlreadyExists, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let kind = source.kind();
        if kind == StorageFull || kind == QuotaExceeded {
            let source = Box::new(source);
            return Self::Full { doing, source };
        }
        if kind == ReadOnlyFilesystem {
            let source = Some(Box::new(source) as Box<_>);
            return Self::ReadOnly { doing, source };
        }
        let path = path.to_owned();
        if kind == AlreadyExists {
            return Self::FileExists { path };
        }
        Self::Io { doing, path, source }
    }

    /// A value that is not what was written.
    pub(crate) fn damaged(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            reason: reason.into(),
        }
    }
}
