//! An enclave directory on the disk: one command at a time, each file replaced whole, the state last.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use coterie_control::issue::{Enclave, IssueError, StoredFile};
use rustix::fs::{FlockOperation, flock};

use crate::disk::{self, Access};

/// Largest file of an enclave directory that is read, in bytes.
const MAX_FILE: usize = 256 << 20;

/// An enclave directory that no other command works on meanwhile.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl Directory {
    /// Opens and locks the directory.
    pub(crate) fn open(path: &Path) -> anyhow::Result<(Self, Enclave)> {
        let lock = File::open(path).with_context(|| {
            format!(
                "cannot open {}; name an enclave directory, which `coterie enclave init` makes",
                path.display()
            )
        })?;
        if !lock.metadata()?.is_dir() {
            bail!("{} is no directory; name an enclave directory", path.display());
        }
        flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
        let this = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        let enclave = this.read()?;
        Ok((this, enclave))
    }

    /// Makes a new directory with an enclave; it is there whole or not at all.
    pub(crate) fn create(path: &Path, enclave: &Enclave) -> anyhow::Result<()> {
        let making = |what: &str| {
            format!(
                "cannot {what} {}; check that the directory above it exists and is yours",
                path.display()
            )
        };
        let partial = Partial(disk::beside(path).with_context(|| making("create"))?);
        DirBuilder::new()
            .mode(0o700)
            .create(&partial.0)
            .with_context(|| making("create"))?;
        for file in enclave.to_files() {
            disk::write(&partial.0.join(file.path), &file.bytes, access(&file), false)?;
        }
        disk::rename_new(&partial.0, path).with_context(|| making("create"))?;
        disk::sync_directory(path).with_context(|| making("write"))
    }

    /// Writes what has changed.
    pub(crate) fn save(&self, enclave: &Enclave) -> anyhow::Result<()> {
        for file in enclave.to_files() {
            let path = self.path.join(file.path);
            if fs::read(&path).is_ok_and(|old| old == **file.bytes) {
                continue;
            }
            disk::write(&path, &file.bytes, access(&file), true)?;
        }
        Ok(())
    }

    fn read(&self) -> anyhow::Result<Enclave> {
        let mut failure = None;
        let enclave = Enclave::from_files(|name| {
            let path = self.path.join(name);
            match disk::read(&path, MAX_FILE) {
                Ok(bytes) => Some(bytes),
                Err(_) if path.symlink_metadata().is_err() => None,
                Err(error) => {
                    failure.get_or_insert(error);
                    None
                }
            }
        });
        match (enclave, failure) {
            (Ok(enclave), _) => {
                self.warn_of_readers()?;
                Ok(enclave)
            }
            (Err(_), Some(failure)) => Err(failure),
            (Err(error @ IssueError::Missing { .. }), None) if !self.path.join("state.json").exists() => {
                Err(error).with_context(|| format!("{} is no enclave directory", self.path.display()))
            }
            (Err(error), None) => Err(error).with_context(|| format!("cannot use {}", self.path.display())),
        }
    }

    fn warn_of_readers(&self) -> anyhow::Result<()> {
        let path = self.path.display();
        if fs::metadata(&self.path)?.mode() & 0o077 != 0 {
            eprintln!("warning: {path} holds the enclave's secrets, but others may open it; run `chmod 700 {path}`");
        }
        Ok(())
    }
}

/// A directory that is removed with what it holds, unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Not there any more when it was renamed.
        let _: std::io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

fn access(file: &StoredFile) -> Access {
    if file.secret { Access::Owner } else { Access::All }
}
