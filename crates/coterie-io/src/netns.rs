//! Network namespaces: other network stacks on the same machine.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The calling thread's own namespace, whichever process it is in.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, which exists at least as long as this value, a thread in it, an interface's peer in another
/// namespace, or a [pin](NetNs::pin).
#[derive(Debug)]
pub struct NetNs {
    link: OwnedFd,
}

impl NetNs {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// The namespace that a path names: a [pin](NetNs::pin), `/run/netns/NAME`, or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            link: File::open(path)?.into(),
        })
    }

    /// A new namespace, with nothing in it but a loopback interface that is down. The calling thread stays where it is.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN` in the user namespace; see [`unshare_user_and_net`].
    pub fn create() -> io::Result<Self> {
        on_own_thread(|| {
            unshare(UnshareFlags::NEWNET)?;
            Self::current()
        })
    }

    /// Moves the calling thread into the namespace. Sockets keep the namespace in which they were made, and threads that
    /// this one starts later begin in it.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN` in the user namespaces of both.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(
            self.link.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it. A panic in `work` goes on in the caller.
    ///
    /// # Errors
    /// As [`NetNs::enter`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Keeps the namespace alive under `path` (a file that is made here) until [`unpin`]. `ip netns` finds pins below
    /// `/run/netns`.
    ///
    /// # Errors
    /// `AlreadyExists` when there is such a file; `PermissionDenied` without `CAP_SYS_ADMIN` over the mount namespace.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        File::create_new(path)?;
        let link = format!("/proc/self/fd/{}", self.link.as_raw_fd());
        mount_bind(&*link, path).map_err(|error| {
            // The file is ours, made two lines above; if it cannot go either, the mount's error is the one to report.
            let _: io::Result<()> = std::fs::remove_file(path);
            error.into()
        })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// Takes back a [pin](NetNs::pin) and removes its file.
///
/// # Errors
/// When `path` is not a pin.
pub fn unpin(path: &Path) -> io::Result<()> {
    unmount(path, UnmountFlags::DETACH)?;
    std::fs::remove_file(path)
}

/// Moves the whole process into a user namespace in which it is root, a network namespace and a mount namespace of its
/// own, so that a user without privileges can make interfaces and namespaces. Only the caller's own user and group exist
/// in it, as 0.
///
/// # Errors
/// `InvalidInput` when the process has more than one thread; `PermissionDenied` or `StorageFull` where the system does not
/// let users make namespaces (`user.max_user_namespaces`, `kernel.unprivileged_userns_clone`, AppArmor).
pub fn unshare_user_and_net() -> io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS)?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only CLONE_FILES could take descriptors away from other threads, and no caller passes it.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
