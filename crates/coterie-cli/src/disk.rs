//! Files: read with a bound, written whole or not at all, and never over another one by accident.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner: mode 0600.
    Owner,
    /// Everybody: mode 0644, less the umask.
    All,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o644,
        }
    }
}

/// Reads a file of at most `limit` bytes, and one byte more where it is longer, so that its reader can say so.
pub(crate) fn read(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        file.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1))
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().with_context(|| format!("cannot read {}; check the path and who may read it", path.display()))
}

/// Reads a file of secrets; warns when others may read it too.
pub(crate) fn read_secret(path: &Path, limit: usize) -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
    let bytes = zeroize::Zeroizing::new(read(path, limit)?);
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        eprintln!(
            "warning: {0} is secret, but others than its owner may open it; run `chmod 600 {0}`",
            path.display()
        );
    }
    Ok(bytes)
}

/// Refuses when there is something at `path` already, before any work is done.
pub(crate) fn check_free(path: &Path, force: bool) -> anyhow::Result<()> {
    if !force && path.symlink_metadata().is_ok() {
        bail!(
            "{} exists already; name another file, or replace it with --force",
            path.display()
        );
    }
    Ok(())
}

/// Writes a new file; with `force` in place of an old one. The file is there whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8], access: Access, force: bool) -> anyhow::Result<()> {
    check_free(path, force)?;
    let partial = Partial::write(path, bytes, access).with_context(|| {
        format!(
            "cannot write {}; check that the directory exists and is yours",
            path.display()
        )
    })?;
    let moved = if force {
        fs::rename(&partial.0, path)
    } else {
        rename_new(&partial.0, path)
    };
    moved.with_context(|| format!("cannot write {}", path.display()))?;
    sync_directory(path).with_context(|| format!("cannot write {} to the disk", path.display()))
}

/// Renames unless the new name is taken.
pub(crate) fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without that promise: as near as it gets.
        Err(rustix::io::Errno::INVAL) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Err(rustix::io::Errno::INVAL) => Err(ErrorKind::AlreadyExists.into()),
        other => Ok(other?),
    }
}

/// Makes the names in a file's directory last.
pub(crate) fn sync_directory(path: &Path) -> std::io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}

/// A file beside `path` that is removed unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn write(path: &Path, bytes: &[u8], access: Access) -> std::io::Result<Self> {
        let partial = Self(beside(path)?);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(access.mode())
            .open(&partial.0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(partial)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Not there any more when it was renamed.
        let _: std::io::Result<()> = fs::remove_file(&self.0);
    }
}

/// A hidden name in the same directory, for what is to be renamed to `path`.
pub(crate) fn beside(path: &Path) -> std::io::Result<PathBuf> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.new", std::process::id()));
    Ok(path.with_file_name(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_whole_and_old_ones_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, b"one", Access::Owner, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = write(&path, b"two", Access::Owner, false).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"two", Access::Owner, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside"
        );
        assert!(rename_new(&path, directory.path()).is_err());
    }

    #[test]
    fn reading_is_bounded_and_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        fs::write(&path, [0; 100]).unwrap();
        assert_eq!(read(&path, 10).unwrap().len(), 11);
        let error = read(&directory.path().join("none"), 10).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
        assert!(read(directory.path(), 10).is_err());
    }
}
