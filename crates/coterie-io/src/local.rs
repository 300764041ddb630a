//! Unix sockets for the programs of this machine.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Who is at the other end of a unix socket, as the kernel recorded it when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id in our pid namespace. It may have been reused since; never authorise by it.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// The peer of a connected unix socket (`SO_PEERCRED`).
///
/// # Errors
/// When `socket` is not a connected unix socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer {
        pid: credentials.pid.as_raw_nonzero().get(),
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
    })
}

/// The process at the other end of a unix socket, to see its end. When that is seen, the kernel has closed what the
/// process had: ports, interfaces, locks.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that is connected, or listens, at the other end of `socket`.
    ///
    /// # Errors
    /// When `socket` is not connected, the process has ended, or it lives in a pid namespace that cannot be seen from here.
    pub fn at_other_end(socket: impl AsFd) -> io::Result<Self> {
        let unseen = || io::Error::new(io::ErrorKind::NotFound, "the process is in a pid namespace of its own");
        let pid = Pid::from_raw(peer(socket)?.pid).ok_or_else(unseen)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Whether it has ended, at the latest `within` from now.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn ends(&self, within: Duration) -> io::Result<bool> {
        let within = Timespec::try_from(within).map_err(|_long| io::ErrorKind::InvalidInput)?;
        let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
        Ok(poll(&mut watched, Some(&within))? == 1)
    }
}

/// Listens at `path` with file mode `mode` (0o600: owner only; 0o660: owner and group).
///
/// The socket is never visible with a wider mode: it is made under another name, gets its mode, and is then renamed to
/// `path`, replacing what a dead process left there.
///
/// # Errors
/// `AddrInUse` when a process listens there already or when something that is not a socket has that name; else what the
/// file system reports.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(in_use(
                path,
                "something that is not a socket has this name; remove it, or choose another path",
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(in_use(path, "another process listens there; stop it first"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

fn in_use(path: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("cannot listen at {}: {why}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_mode_holds_the_peer_is_known_and_a_second_listener_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = listen(&path, 0o660).expect("listening");
        let found = std::fs::metadata(&path).expect("the socket is there");
        assert_eq!(found.mode() & 0o7777, 0o660);

        let mut client = UnixStream::connect(&path).expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        client.write_all(b"x").expect("written");
        server.read_exact(&mut [0]).expect("read");
        let peer = peer(&server).expect("credentials");
        assert_eq!((peer.uid, peer.gid), (found.uid(), found.gid()));
        assert_eq!(u32::try_from(peer.pid).expect("positive"), std::process::id());

        let refused = listen(&path, 0o600).expect_err("taken");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_end_of_the_process_at_the_other_end_is_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = listen(&path, 0o600).expect("listening");
        let client = UnixStream::connect(&path).expect("connected");
        let (server, _) = listener.accept().expect("accepted");
        let own = Process::at_other_end(&client).expect("this process listens");
        assert!(!own.ends(Duration::ZERO).expect("waited"));
        assert!(Process::at_other_end(&server).is_ok());
        assert!(Process::at_other_end(UnixStream::pair().expect("a pair").0).is_ok());

        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat");
        let pid = Pid::from_child(&child);
        let other = Process(pidfd_open(pid, PidfdFlags::empty()).expect("it runs"));
        assert!(!other.ends(Duration::from_millis(10)).expect("waited"));
        drop(child.stdin.take());
        assert!(other.ends(Duration::from_secs(10)).expect("waited"));
        child.wait().expect("ended");
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_but_a_file_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        drop(listen(&path, 0o600).expect("listening"));
        let listener = listen(&path, 0o600).expect("listening again");
        UnixStream::connect(&path).expect("connected");
        drop(listener);

        let file = directory.path().join("file");
        std::fs::write(&file, "precious").expect("written");
        assert_eq!(
            listen(&file, 0o600).expect_err("a file").kind(),
            io::ErrorKind::AddrInUse
        );
        assert_eq!(std::fs::read(&file).expect("read"), b"precious");
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 2);
    }
}
