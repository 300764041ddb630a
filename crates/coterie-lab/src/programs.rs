//! Programs that others wrote, to make traffic with and to judge by.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What the lab itself cannot do without, and what its wrappers use, with the Debian packages.
const PROGRAMS: [(&str, &str); 19] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("python3", "python3-minimal"),
    ("busybox", "busybox-static"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("psql", "postgresql-client"),
    ("postgres", "postgresql"),
    ("initdb", "postgresql"),
    ("tcpdump", "tcpdump"),
    ("arping", "arping"),
];

/// The Debian package that has a program; its name itself if the lab knows none.
#[must_use]
pub fn package_of(program: &str) -> &str {
    PROGRAMS
        .iter()
        .find(|(name, _)| *name == program)
        .map_or(program, |(_, package)| package)
}

/// Where a program is: given as a path, or on the search path, or where Debian keeps PostgreSQL's.
#[must_use]
pub fn find(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = Path::new(program.as_ref());
    let is_program = |path: &Path| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        let path = std::path::absolute(program).ok()?;
        return is_program(&path).then_some(path);
    }
    let searched = crate::privilege::search_path();
    std::env::split_paths(&searched)
        .map(|directory| directory.join(program))
        .find(|path| is_program(path))
}
