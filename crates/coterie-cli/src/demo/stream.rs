//! Datagrams that go from one machine to another and back all the time: how many were lost, when the last one came back, and
//! when one came back again.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coterie_lab::Host;

use super::world::Machine;

/// From one datagram to the next.
const PERIOD: Duration = Duration::from_millis(5);
/// How long an answer may take after the last one was sent.
const PATIENCE: Duration = Duration::from_millis(500);
/// Who has had no answer for so long is cut off.
const SILENCE: Duration = Duration::from_millis(300);

/// Datagrams on their way, as long as this value lives.
#[derive(Debug)]
pub(super) struct Stream {
    name: String,
    seen: Arc<Mutex<Seen>>,
    asking: Task,
    answering: Task,
}

/// What came of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow {
    /// Datagrams that were sent.
    pub(super) sent: u64,
    /// Those that came back.
    pub(super) answered: u64,
    /// The longest time between two that came back.
    pub(super) gap: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    sent: u64,
    /// By number.
    answered: Vec<bool>,
    last: Option<Instant>,
    gap: Duration,
}

/// A thread that ends when it is told to.
#[derive(Debug)]
struct Task {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stream {
    /// From a machine, which need not be a member yet, to a member.
    pub(super) fn start(from: &Host, to: &Machine, canary: &str) -> anyhow::Result<Self> {
        Self::every(PERIOD, from, to, canary)
    }

    /// The same, with another period.
    pub(super) fn every(period: Duration, from: &Host, to: &Machine, canary: &str) -> anyhow::Result<Self> {
        let name = format!("{} → {}", from.name(), to.name());
        let bind = |host: &Host, address: SocketAddr| {
            let bound = host.within(|| UdpSocket::bind(address))?;
            bound.with_context(|| format!("no socket for {name}"))
        };
        let echo = bind(&to.host, SocketAddr::new(to.inside[0], 0))?;
        let target = echo.local_addr()?;
        let socket = bind(from, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        let seen = Arc::<Mutex<Seen>>::default();
        let (noted, canary) = (Arc::clone(&seen), canary.as_bytes().to_vec());
        Ok(Self {
            name,
            seen,
            answering: Task::start(move |stop| answer(&echo, stop)),
            asking: Task::start(move |stop| ask(&socket, target, (period, &canary), &noted, stop)),
        })
    }

    /// Waits for an answer after `start`: how long after.
    pub(super) fn answered_after(&self, start: Instant, deadline: Duration) -> anyhow::Result<Duration> {
        let what = format!("{}: an answer", self.name);
        let found = coterie_lab::wait_for(&what, deadline, || self.seen().last.filter(|last| *last > start))?;
        Ok(found.duration_since(start))
    }

    /// Waits until nothing comes back any more: how long after `start` the last answer came.
    pub(super) fn silent_after(&self, start: Instant, deadline: Duration) -> anyhow::Result<Duration> {
        let what = format!("{}: silence", self.name);
        let found = coterie_lab::wait_for(&what, deadline, || {
            let last = self.seen().last.map_or(start, |last| last.max(start));
            (last.elapsed() >= SILENCE).then_some(last)
        })?;
        Ok(found.duration_since(start))
    }

    /// Ends it, and waits for answers that are on their way.
    pub(super) fn end(mut self) -> Flow {
        self.asking.end();
        self.answering.end();
        let seen = self.seen();
        let answered = seen.answered.iter().filter(|answered| **answered).count();
        Flow {
            sent: seen.sent,
            answered: u64::try_from(answered).unwrap_or(u64::MAX),
            gap: seen.gap,
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl Flow {
    /// How many did not come back.
    pub(super) fn lost(self) -> u64 {
        self.sent - self.answered
    }
}

impl Task {
    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self {
            stop,
            thread: Some(std::thread::spawn(move || work(&told))),
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panics nowhere; what it has seen counts in any case.
            let _: std::thread::Result<()> = thread.join();
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Nobody waits for what a stream without an end still hears.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) {
    let mut bytes = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Some((len, from)) = receive(socket, &mut bytes, Duration::from_millis(20)) {
            // Whoever asked may be cut off by now, which is what is measured.
            let _: std::io::Result<usize> = socket.send_to(&bytes[..len], from);
        }
    }
}

fn ask(socket: &UdpSocket, to: SocketAddr, (period, canary): (Duration, &[u8]), seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        listen(socket, due, seen);
        due = Instant::now().max(due) + period;
        let mut seen = lock(seen);
        let datagram = [&seen.sent.to_be_bytes(), canary].concat();
        // Also one that the kernel does not take is one that does not come back.
        let _: std::io::Result<usize> = socket.send_to(&datagram, to);
        seen.sent += 1;
        seen.answered.push(false);
    }
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && lock(seen).answered.contains(&false) {
        listen(socket, Instant::now() + Duration::from_millis(10), seen);
    }
}

/// Notes answers until then.
fn listen(socket: &UdpSocket, until: Instant, seen: &Mutex<Seen>) {
    let mut bytes = [0; 64];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let Some((len, _)) = receive(socket, &mut bytes, left) else {
            continue;
        };
        let number = bytes[..len].first_chunk().map(|number| u64::from_be_bytes(*number));
        let now = Instant::now();
        let mut seen = lock(seen);
        let number = number.and_then(|number| usize::try_from(number).ok());
        if let Some(answered) = number.and_then(|number| seen.answered.get_mut(number)) {
            *answered = true;
            if let Some(last) = seen.last.replace(now) {
                seen.gap = seen.gap.max(now.duration_since(last));
            }
        }
    }
}

/// One datagram, if one comes in that time.
fn receive(socket: &UdpSocket, bytes: &mut [u8], time: Duration) -> Option<(usize, SocketAddr)> {
    // The kernel takes no time of zero for one.
    socket
        .set_read_timeout(Some(time.max(Duration::from_micros(10))))
        .ok()?;
    socket.recv_from(bytes).ok()
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
