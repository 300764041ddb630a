//! Has this machine been copied? Three ways in which a hypervisor tells a guest that it was restored or forked.
//!
//! * the generation identifier that QEMU shows through its configuration device in sysfs: 16 bytes, new after a restore;
//! * the kernel's log line when its own generation driver reseeds the random pool;
//! * the clock device `vmclock`: its generation counter, or where it has none its disruption marker (which a live
//!   migration changes too).
//!
//! `boot_id` is no help: a restore does not change it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};

/// Where to look; `None`: not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The table of the generation identifier; the identifier lies at byte 40.
    pub identifier: Option<PathBuf>,
    /// The kernel's log, one record a read.
    pub kernel_log: Option<PathBuf>,
    /// The clock device.
    pub clock: Option<PathBuf>,
}

impl Paths {
    /// Where Linux has them.
    #[must_use]
    pub fn system() -> Self {
        Self {
            identifier: Some("/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw".into()),
            kernel_log: Some("/dev/kmsg".into()),
            clock: Some("/dev/vmclock0".into()),
        }
    }
}

/// Watches for a change of the machine's generation.
#[derive(Debug)]
pub struct Generation {
    identifier: Option<Watched>,
    clock: Option<Watched>,
    log: Option<KernelLog>,
}

impl Generation {
    /// Opens what is there of `paths` and remembers what it says now. A path that does not exist, or that we may not
    /// read, counts as not there: see [`Generation::sources`].
    ///
    /// # Errors
    /// A source that is there and can be opened, but not read.
    pub fn open(paths: &Paths) -> io::Result<Self> {
        let watched = |path: &Option<PathBuf>, value| -> io::Result<Option<Watched>> {
            path.as_ref()
                .and_then(open_if_there)
                .map(|file| Watched::new(file, value))
                .transpose()
        };
        Ok(Self {
            identifier: watched(&paths.identifier, identifier)?,
            clock: watched(&paths.clock, clock)?,
            log: paths
                .kernel_log
                .as_ref()
                .and_then(open_if_there)
                .map(KernelLog::new)
                .transpose()?,
        })
    }

    /// Whether the generation has changed since the last call, or since [`Generation::open`].
    ///
    /// Costs two or three system calls; reading the identifier leaves the guest for the hypervisor, tens of microseconds,
    /// so ask a few times a second, and whenever [`Generation::log_descriptor`] is readable.
    ///
    /// # Errors
    /// A source that can no longer be read. Treat it as a change.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        if let Some(identifier) = &mut self.identifier {
            changed |= identifier.changed()?;
        }
        if let Some(clock) = &mut self.clock {
            changed |= clock.changed()?;
        }
        if let Some(log) = &mut self.log {
            changed |= log.told_of_a_fork()?;
        }
        Ok(changed)
    }

    /// Names of the sources that are there: `identifier`, `clock`, `kernel-log`. None: a copy of this machine will not be
    /// noticed from inside.
    #[must_use]
    pub fn sources(&self) -> Vec<&'static str> {
        let present = [
            (self.identifier.is_some(), "identifier"),
            (self.clock.is_some(), "clock"),
            (self.log.is_some(), "kernel-log"),
        ];
        present
            .into_iter()
            .filter_map(|(there, name)| there.then_some(name))
            .collect()
    }

    /// The source that becomes readable when it has something to say. Every line of the kernel's log makes it readable.
    #[must_use]
    pub fn log_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().map(|log| log.file.as_fd())
    }
}

fn open_if_there(path: &PathBuf) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).ok().map(File::from)
}

/// A place whose value differs from generation to generation.
#[derive(Debug)]
struct Watched {
    file: File,
    value: fn(&File) -> io::Result<[u8; 16]>,
    last: [u8; 16],
}

impl Watched {
    fn new(file: File, value: fn(&File) -> io::Result<[u8; 16]>) -> io::Result<Self> {
        let last = value(&file)?;
        Ok(Self { file, value, last })
    }

    fn changed(&mut self) -> io::Result<bool> {
        let now = (self.value)(&self.file)?;
        Ok(std::mem::replace(&mut self.last, now) != now)
    }
}

fn identifier(file: &File) -> io::Result<[u8; 16]> {
    let mut value = [0; 16];
    file.read_exact_at(&mut value, 40)?;
    Ok(value)
}

/// The fields of `struct vmclock_abi` that matter: disruption marker at 16, flags at 24, generation counter at 104.
fn clock(file: &File) -> io::Result<[u8; 16]> {
    const HAS_GENERATION_COUNTER: u64 = 1 << 8;
    let word = |offset| -> io::Result<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let counted = word(24)? & HAS_GENERATION_COUNTER != 0;
    let generation = word(if counted { 104 } else { 16 })?;
    let mut value = [0; 16];
    value[0] = u8::from(counted);
    value[8..].copy_from_slice(&generation.to_le_bytes());
    Ok(value)
}

#[derive(Debug)]
struct KernelLog {
    file: File,
    /// The beginning of a line whose end has not been read yet.
    rest: Vec<u8>,
}

impl KernelLog {
    const NEEDLE: &[u8] = b"virtual machine fork";

    fn new(file: File) -> io::Result<Self> {
        seek(&file, SeekFrom::End(0))?;
        Ok(Self { file, rest: Vec::new() })
    }

    fn told_of_a_fork(&mut self) -> io::Result<bool> {
        let mut told = false;
        let mut bytes = [0; 8_192];
        loop {
            match rustix::io::read(&self.file, &mut bytes) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(told),
                Ok(length) => self.rest.extend_from_slice(&bytes[..length]),
                // PIPE: the kernel overwrote records before we read them; what is left can be read on.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::PIPE) => continue,
                Err(error) => return Err(error.into()),
            }
            while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                told |= by_the_kernel(&line) && line.windows(Self::NEEDLE.len()).any(|part| part == Self::NEEDLE);
            }
        }
    }
}

/// A record begins with its priority: below 8 is the kernel, what programs write to the log has 8 or more.
fn by_the_kernel(record: &[u8]) -> bool {
    matches!(record, [b'0'..=b'7', b',', ..])
}
