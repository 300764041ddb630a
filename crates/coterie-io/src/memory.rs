//! Memory that outlives the process or must not leave it: sealed and journal memfds, the service manager's descriptor
//! store, and what keeps keys out of swap and core dumps.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};
use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sd_notify::NotifyState;

/// Bytes in anonymous memory behind a descriptor, which nobody can change any more.
#[derive(Debug)]
pub struct Sealed {
    file: File,
}

impl Sealed {
    /// Puts `bytes` into a new memfd and seals it. `name` is for people who look at `/proc/PID/fd`.
    ///
    /// # Errors
    /// Out of memory or descriptors, or a kernel before 3.17.
    pub fn new(name: &str, bytes: &[u8]) -> io::Result<Self> {
        let file = create(name)?;
        file.write_all_at(bytes, 0)?;
        fcntl_add_seals(&file, content_seals() | SealFlags::SEAL)?;
        Ok(Self { file })
    }

    /// Takes over a descriptor that came from elsewhere, such as [`passed_descriptors`].
    ///
    /// # Errors
    /// `InvalidData` when it is not a memfd, or not sealed against writing, shrinking, growing and taking seals off.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let wanted = content_seals() | SealFlags::SEAL;
        if !fcntl_get_seals(&descriptor).is_ok_and(|seals| seals.contains(wanted)) {
            let why = "the descriptor is not a sealed memfd; it was not made by this program";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Self {
            file: descriptor.into(),
        })
    }

    /// A copy of the bytes. The caller wipes it if they are secret.
    ///
    /// # Errors
    /// Only what `pread(2)` reports for a broken descriptor.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Anonymous memory of a fixed size behind a descriptor, written in place: what must survive the process and changes while
/// it runs, such as a counter. It does not survive the machine.
#[derive(Debug)]
pub struct Journal {
    file: File,
    size: u64,
}

impl Journal {
    /// A new journal of `size` zero bytes, sealed against shrinking and growing.
    ///
    /// # Errors
    /// Out of memory or descriptors, or a kernel before 3.17.
    pub fn create(name: &str, size: u64) -> io::Result<Self> {
        let file = create(name)?;
        ftruncate(&file, size)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self { file, size })
    }

    /// Takes over a descriptor that came from elsewhere, such as [`passed_descriptors`].
    ///
    /// # Errors
    /// `InvalidData` when it is not a memfd whose size is sealed.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let seals = fcntl_get_seals(&descriptor).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) || seals.contains(SealFlags::WRITE) {
            let why = "the descriptor is not a journal's memfd; it was not made by this program";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let file = File::from(descriptor);
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes `bytes` at `offset`. A crash of the process during the call can leave the first part of them written, so a
    /// caller that needs all or nothing writes to slots in turn and marks each with a checksum.
    ///
    /// # Errors
    /// `InvalidInput` when they do not fit.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        self.file.write_all_at(bytes, offset)
    }

    /// Reads as many bytes at `offset` as `bytes` holds.
    ///
    /// # Errors
    /// `InvalidInput` when the journal ends before.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.check(offset, bytes.len())?;
        self.file.read_exact_at(bytes, offset)
    }

    fn check(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = u64::try_from(length).ok().and_then(|length| offset.checked_add(length));
        if end.is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        let why = format!(
            "{length} bytes at {offset} do not fit into a journal of {} bytes",
            self.size
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn content_seals() -> SealFlags {
    SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW
}

fn create(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know NOEXEC_SEAL.
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags),
        made => made,
    };
    Ok(made?.into())
}

/// Keeps this process's memory out of core dumps, and other processes of the same user from reading it with `ptrace` or
/// `/proc/PID/mem`.
///
/// # Errors
/// Only what `prctl(2)` reports.
pub fn forbid_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Room that a process must still be able to map when all of it is locked.
const LOCKED_ROOM: usize = 64 << 20;

/// Keeps all memory of this process, present and future, out of swap.
///
/// # Errors
/// `PermissionDenied` or `OutOfMemory` when the limit on locked memory (`LimitMEMLOCK=`) is too low, also for what the
/// process has yet to map; nothing is locked then. The caller decides whether to go on.
pub fn lock_process_memory() -> io::Result<()> {
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?;
    // The limit counts what is mapped later too, and an allocation that it refuses would end the process.
    if Vec::<u8>::new().try_reserve_exact(LOCKED_ROOM).is_err() {
        munlockall()?;
        return Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            "the limit on locked memory leaves no room to work in; raise LimitMEMLOCK=",
        ));
    }
    Ok(())
}

/// Gives a copy of `descriptor` to the service manager, which hands it to the next start of this service under `name` (up
/// to 255 ASCII characters, none of them a colon). Replaces nothing: [`forget_descriptor`] an old one of that name first.
/// Returns whether there is a service manager that was asked; it keeps as many as `FileDescriptorStoreMax=` says, and does
/// not say whether it did.
///
/// # Errors
/// When `$NOTIFY_SOCKET` is set but cannot be written to.
pub fn store_descriptor(name: &str, descriptor: impl AsFd) -> io::Result<bool> {
    // FDPOLL=0: a memfd cannot be polled, and must not be dropped for that.
    let state = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        NotifyState::Custom("FDPOLL=0"),
    ];
    sd_notify::notify_with_fds(&state, &[descriptor.as_fd()])?;
    Ok(std::env::var_os("NOTIFY_SOCKET").is_some())
}

/// Asks the service manager to drop what it keeps under `name`.
///
/// # Errors
/// When `$NOTIFY_SOCKET` is set but cannot be written to.
pub fn forget_descriptor(name: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

/// The descriptors that the service manager passed at the start of this process, with their names.
///
/// # Safety
/// Call it once at most in a process, before anything else uses `$LISTEN_FDS` or opens descriptors by number: the result
/// owns descriptors 3, 4, …
///
/// # Errors
/// `InvalidInput` when the variables contradict each other or name descriptors that are not open.
pub unsafe fn passed_descriptors() -> io::Result<Vec<(String, OwnedFd)>> {
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: the service manager opened these for us (each was found open while it was made close-on-exec), and by this
    // function's contract nobody else owns them.
    Ok(passed
        .map(|(number, name)| (name, unsafe { OwnedFd::from_raw_fd(number) }))
        .collect())
}

/// [`passed_descriptors`] for whoever comes first; later calls get none.
///
/// # Errors
/// As [`passed_descriptors`].
pub fn take_passed_descriptors() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if TAKEN.swap(true, std::sync::atomic::Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // SAFETY: the flag makes this the only call of its kind, `sd_notify` checks that the descriptors were passed to this very
    // process, and owning a descriptor by its number takes `unsafe` anywhere else too.
    unsafe { passed_descriptors() }
}
