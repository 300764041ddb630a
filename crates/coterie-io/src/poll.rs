//! Readiness of descriptors: a level-triggered `epoll` loop, and a waker for other threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read.
    Read,
    /// Something can be written.
    Write,
    /// Either.
    ReadWrite,
}

/// One descriptor that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The key that the descriptor was added with.
    pub key: u64,
    /// Reading will not block (end of file and errors count: a read tells which).
    pub readable: bool,
    /// Writing will not block.
    pub writable: bool,
}

/// Watches descriptors until one is ready or a time has passed.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    ready: Vec<Ready>,
}

impl Poller {
    const EVENTS: usize = 64;

    /// A poller that watches nothing yet.
    ///
    /// # Errors
    /// The process or the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(Self::EVENTS),
            ready: Vec::with_capacity(Self::EVENTS),
        })
    }

    /// Watches `fd`, to be reported under `key`. The caller removes it before closing it.
    ///
    /// # Errors
    /// `AlreadyExists` when it is watched already; `PermissionDenied` for a regular file, which is always ready.
    pub fn add(&self, fd: impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(key),
            flags(interest),
        )?)
    }

    /// Changes what `fd` is watched for.
    ///
    /// # Errors
    /// `NotFound` when it is not watched.
    pub fn modify(&self, fd: impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(key),
            flags(interest),
        )?)
    }

    /// Watches `fd` no longer.
    ///
    /// # Errors
    /// `NotFound` when it is not watched.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready or `timeout` has passed (`None`: for ever), and returns what is ready. A signal
    /// ends the wait early with nothing ready.
    ///
    /// # Errors
    /// Only what `epoll_wait(2)` reports for a broken poller.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<&[Ready]> {
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        self.events.clear();
        self.ready.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            timeout.as_ref(),
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => self.events.clear(),
            Err(error) => return Err(error.into()),
        }
        self.ready.extend(self.events.iter().map(|event| {
            // epoll_event is packed: its fields are copied before they are used.
            let (data, flags) = (event.data, event.flags);
            let ended = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
            Ready {
                key: data.u64(),
                readable: ended || flags.contains(epoll::EventFlags::IN),
                writable: ended || flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(&self.ready)
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller")
            .field("epoll", &self.epoll)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Read => epoll::EventFlags::IN,
        Interest::Write => epoll::EventFlags::OUT,
        Interest::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
    }
}

/// Lets another thread end a [`Poller::wait`]: an eventfd that becomes readable.
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
}

impl Waker {
    /// A waker that is not raised.
    ///
    /// # Errors
    /// The process or the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Raises it. Raising twice before [`Waker::drain`] is as good as once. Never blocks, and may be called from any
    /// thread, or from a signal handler.
    pub fn wake(&self) {
        // The only failure of a valid eventfd is a counter at its limit, and then it is raised already.
        let _: Result<usize, _> = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Lowers it, and tells whether it was raised.
    pub fn drain(&self) -> bool {
        rustix::io::read(&self.event, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_waker_ends_the_wait_and_is_reported_by_its_key() {
        let waker = Arc::new(Waker::new().expect("an eventfd"));
        let mut poller = Poller::new().expect("an epoll");
        poller.add(&*waker, 7, Interest::Read).expect("watched");
        assert_eq!(poller.wait(Some(Duration::ZERO)).expect("polled"), []);

        let other = Arc::clone(&waker);
        let thread = std::thread::spawn(move || other.wake());
        let ready = poller.wait(Some(Duration::from_secs(10))).expect("polled").to_vec();
        thread.join().expect("the thread ended");
        assert_eq!(
            ready,
            [Ready {
                key: 7,
                readable: true,
                writable: false
            }]
        );

        assert!(waker.drain());
        assert!(!waker.drain());
        assert_eq!(poller.wait(Some(Duration::ZERO)).expect("polled"), []);
    }

    #[test]
    fn a_wait_ends_when_its_time_has_passed() {
        let mut poller = Poller::new().expect("an epoll");
        let started = Instant::now();
        assert!(poller.wait(Some(Duration::from_millis(20))).expect("polled").is_empty());
        assert!(started.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_removed_descriptor_is_not_reported() {
        let waker = Waker::new().expect("an eventfd");
        let mut poller = Poller::new().expect("an epoll");
        poller.add(&waker, 1, Interest::ReadWrite).expect("watched");
        waker.wake();
        let ready = poller.wait(None).expect("polled").to_vec();
        assert_eq!(
            ready,
            [Ready {
                key: 1,
                readable: true,
                writable: true
            }]
        );
        poller.modify(&waker, 2, Interest::Write).expect("changed");
        assert_eq!(
            poller.wait(None).expect("polled"),
            [Ready {
                key: 2,
                readable: false,
                writable: true
            }]
        );
        poller.remove(&waker).expect("removed");
        assert!(poller.wait(Some(Duration::ZERO)).expect("polled").is_empty());
        assert_eq!(
            poller.remove(&waker).expect_err("not watched").kind(),
            io::ErrorKind::NotFound
        );
    }
}
