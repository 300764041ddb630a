//! Files that come about whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes a file that only its owner may read, whole or not at all. What it replaces is overwritten, as far as the disk below
/// does what it is told.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fresh_private(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let old = if_there(path)?;
    fs::rename(&fresh, path)?;
    // The new name is on disk when the directory is.
    fs::File::open(directory_of(path))?.sync_all()?;
    old.map_or(Ok(()), |old| wipe(&old))
}

/// Makes sure that [`write_private`] finds what it needs, and leaves things as they are.
pub(crate) fn check_private(path: &Path) -> io::Result<()> {
    let fresh = path.with_extension("new");
    drop(fresh_private(&fresh)?);
    fs::remove_file(&fresh)?;
    if_there(path)?;
    fs::File::open(directory_of(path))?.sync_all()
}

/// Writes a file that everybody may read who can come to it, whole or not at all. It need not outlive a power cut.
pub(crate) fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    // Whatever the mask of this process says.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(&fresh, path)
}

/// Makes a directory that only its owner may enter, unless it is there.
pub(crate) fn make_private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn fresh_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn if_there(path: &Path) -> io::Result<Option<fs::File>> {
    match fs::OpenOptions::new().write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directory that a file lies in: of a bare name, the one that this process is in.
fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    }
}

/// Removes a file, if it is there, and overwrites it.
pub(crate) fn remove_private(path: &Path) -> io::Result<()> {
    let Some(old) = if_there(path)? else { return Ok(()) };
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
    fn what_cannot_be_written_is_known_before() {
        assert_eq!(directory_of(Path::new("bundle")), Path::new("."));
        assert_eq!(directory_of(Path::new("/bundle")), Path::new("/"));
        assert_eq!(directory_of(Path::new("a/bundle")), Path::new("a"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        check_private(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write_private(&path, b"secret").unwrap();
        check_private(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        for place in [
            dir.path().join("none/secret"),
            dir.path().to_owned(),
            path.join("below"),
        ] {
            check_private(&place).unwrap_err();
            write_private(&place, b"secret").unwrap_err();
        }
    }

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
