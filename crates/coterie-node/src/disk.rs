//! Files that come about whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Writes a file that only its owner may read, whole or not at all. What it replaces is overwritten, as far as the disk below
/// does what it is told.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let old = match fs::OpenOptions::new().write(true).open(path) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    fs::rename(&fresh, path)?;
    // The new name is on disk when the directory is.
    fs::File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()?;
    old.map_or(Ok(()), |old| wipe(&old))
}

/// Removes a file, if it is there, and overwrites it.
pub(crate) fn remove_private(path: &Path) -> io::Result<()> {
    let old = match fs::OpenOptions::new().write(true).open(path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    fs::remove_file(path)?;
    wipe(&old)
}

/// Overwrites a file that has no name any more.
fn wipe(file: &fs::File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    file.write_all_at(&vec![0; length], 0)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn what_is_replaced_or_removed_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_private(&path, b"first secret").unwrap();
        let mut first = fs::File::open(&path).unwrap();
        write_private(&path, b"second").unwrap();
        let mut second = fs::File::open(&path).unwrap();
        let mut left = Vec::new();
        first.read_to_end(&mut left).unwrap();
        assert_eq!(left, [0; 12]);
        assert_eq!(fs::read(&path).unwrap(), b"second");
        remove_private(&path).unwrap();
        remove_private(&path).unwrap();
        left.clear();
        second.read_to_end(&mut left).unwrap();
        assert_eq!(left, [0; 6]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
