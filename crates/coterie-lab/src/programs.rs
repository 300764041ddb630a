//! Programs that others wrote, to make traffic with and to judge by: started, asked, and their answers read.
//!
//! Each wrapper says [`crate::LabError::Missing`] when its program is not installed, which a test may take as the reason to
//! be skipped ([`crate::LabError::is_skip`]).

mod http;
mod iperf;
mod ping;
mod postgres;
mod ssh;

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use http::{Fetch, Fetched, HttpProgram, HttpServer};
pub use iperf::{IperfServer, Throughput, Transfer};
pub use ping::{Ping, Pinged};
pub use postgres::Postgres;
pub use ssh::SshServer;

use crate::command::Child;
use crate::error::{LabError, Result};
use crate::host::Host;

/// How long a server may take until it listens.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Where Debian keeps PostgreSQL's own programs, one directory for each version.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// What the lab and its wrappers start, and the Debian packages that have it.
const PROGRAMS: [(&str, &str); 17] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("busybox", "busybox-static"),
    ("python3", "python3-minimal"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("psql", "postgresql-client"),
    ("postgres", "postgresql"),
    ("initdb", "postgresql"),
];

/// What is not installed of all that the lab and its wrappers can use, each with its Debian package. Of the HTTP servers
/// one is enough.
#[must_use]
pub fn missing() -> Vec<(&'static str, &'static str)> {
    let serves_http = [HttpProgram::Busybox, HttpProgram::Python]
        .iter()
        .any(|program| program.is_installed());
    PROGRAMS
        .into_iter()
        .filter(|(program, _)| *program != "python3" && !(*program == "busybox" && serves_http))
        .filter(|(program, _)| find(program).is_none() || (*program == "busybox" && !serves_http))
        .collect()
}

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
        .chain(postgresql_directories())
        .map(|directory| directory.join(program))
        .find(|path| is_program(path))
}

/// The newest version's first.
fn postgresql_directories() -> Vec<PathBuf> {
    let version = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
            .unwrap_or(0)
    };
    let mut versions: Vec<PathBuf> = fs::read_dir(POSTGRESQL)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
    versions.into_iter().map(|path| path.join("bin")).collect()
}

/// Waits until a server accepts connections on its own host.
fn wait_until_listening(server: &Child, port: u16) -> Result<()> {
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    crate::wait::wait_for(
        &format!("{} on {} listening", server.name(), server.host().name()),
        START_DEADLINE,
        || {
            if !server.is_running() {
                return Some(Err(LabError::Command {
                    command: format!("{} on {}", server.name(), server.host().name()),
                    status: "ended at once".to_owned(),
                    stderr: format!("{}{}", server.stdout(), server.stderr()).trim().to_owned(),
                }));
            }
            let connected = server
                .host()
                .within(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok());
            match connected {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        },
    )?
}

/// An address as it stands in a URL.
fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// A file below a host's home of the ordinary user, which that user owns.
fn home(host: &Host) -> PathBuf {
    host.inner().home(crate::command::Identity::Ordinary)
}
