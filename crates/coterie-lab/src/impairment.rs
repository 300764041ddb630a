//! A wire with faults: a thread carries frames from one end to the other, later, out of order, twice or never. It does in
//! user space what the kernel's netem would do, which many kernels are built without.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coterie_io::capture::{Capture, FrameSender};
use coterie_io::poll::{Interest, Poller, Waker};

use crate::error::{LabError, Result};
use crate::fabric::lock;
use crate::frame::complete_checksums;
use crate::random::Random;

/// What a wire does to each frame, in both directions alike. The default passes everything on at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Impairment {
    /// How long every frame is under way.
    pub delay: Duration,
    /// By how much more at most, drawn for each frame; frames may overtake one another.
    pub jitter: Duration,
    /// Share of frames that are sent at once, ahead of those that are under way; from 0 to 1.
    pub reorder: f64,
    /// Share of frames that are lost, from 0 to 1.
    pub loss: f64,
    /// Share of frames that arrive twice, from 0 to 1.
    pub duplication: f64,
    /// Bits per second in each direction; `None` for as fast as this machine can.
    pub rate: Option<u64>,
    /// Bytes that may wait at a limited rate; a frame beyond that is lost.
    pub queue: usize,
    /// Draws the same faults for the same frames again.
    pub seed: u64,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0.0,
            loss: 0.0,
            duplication: 0.0,
            rate: None,
            queue: 1 << 20,
            seed: 1,
        }
    }
}

/// What a wire has done, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WireCounts {
    /// Frames that entered.
    pub entered: u64,
    /// Frames that came out, duplicates included.
    pub left: u64,
    /// Frames that were lost by chance.
    pub lost: u64,
    /// Frames that found the queue full.
    pub overflowed: u64,
    /// Frames that were sent twice.
    pub duplicated: u64,
    /// Frames that were sent ahead of others.
    pub reordered: u64,
    /// Frames that the other end did not take.
    pub refused: u64,
    /// Frames that the kernel lost before the wire could take them, for want of processor time.
    pub overrun: u64,
}

/// The thread that carries frames.
#[derive(Debug)]
pub(crate) struct Pump {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    impairment: Mutex<Impairment>,
    counts: Mutex<WireCounts>,
    stop: Waker,
}

const STOP: u64 = 2;

impl Pump {
    /// Starts carrying frames between two interfaces of the caller's network namespace.
    pub(crate) fn start(interfaces: &[String; 2], impairment: &Impairment) -> Result<Self> {
        let open = |interface: &String| -> std::io::Result<End> {
            Ok(End {
                capture: Capture::open(interface)?,
                sender: FrameSender::open(interface)?,
                free_at: None,
                queued: 0,
            })
        };
        let start = || -> std::io::Result<Self> {
            let ends = [open(&interfaces[0])?, open(&interfaces[1])?];
            let shared = Arc::new(Shared {
                impairment: Mutex::new(impairment.clone()),
                counts: Mutex::default(),
                stop: Waker::new()?,
            });
            let random = Random::seeded(impairment.seed);
            let run = Run {
                ends,
                under_way: BinaryHeap::new(),
                sequence: 0,
                random,
                shared: Arc::clone(&shared),
            };
            let thread = std::thread::Builder::new()
                .name("wire".to_owned())
                .spawn(move || run.carry())?;
            Ok(Self {
                shared,
                thread: Some(thread),
            })
        };
        start().map_err(LabError::io(format!(
            "carry frames between {} and {}",
            interfaces[0], interfaces[1]
        )))
    }

    pub(crate) fn counts(&self) -> WireCounts {
        *lock(&self.shared.counts)
    }

    pub(crate) fn impair(&self, impairment: &Impairment) {
        lock(&self.shared.impairment).clone_from(impairment);
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.stop.wake();
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported on standard error already.
            let _: std::thread::Result<()> = thread.join();
        }
    }
}

/// One end of the wire: what is captured here leaves at the other end.
struct End {
    capture: Capture,
    sender: FrameSender,
    /// When a limited rate has sent all that entered here before.
    free_at: Option<Instant>,
    queued: usize,
}

/// A frame under way, first by time and then by the order of entering.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Instant,
    sequence: u64,
    entered_at: usize,
    frame: Vec<u8>,
}

struct Run {
    ends: [End; 2],
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sequence: u64,
    random: Random,
    shared: Arc<Shared>,
}

impl Run {
    fn carry(mut self) {
        let mut poller = self.poller().expect("the process has descriptors left");
        loop {
            let pause = self
                .under_way
                .peek()
                .map(|next| next.0.due.saturating_duration_since(Instant::now()));
            let ready: Vec<u64> = match poller.wait(pause) {
                Ok(ready) => ready.iter().map(|ready| ready.key).collect(),
                Err(_) => return,
            };
            if ready.contains(&STOP) {
                return;
            }
            for key in ready {
                self.take(usize::from(key == 1));
            }
            self.deliver();
            let overrun = self.ends.iter_mut().map(|end| end.capture.lost().unwrap_or(0)).sum();
            lock(&self.shared.counts).overrun = overrun;
        }
    }

    fn poller(&self) -> std::io::Result<Poller> {
        let poller = Poller::new()?;
        for (key, end) in (0..).zip(&self.ends) {
            poller.add(&end.capture, key, Interest::Read)?;
        }
        poller.add(&self.shared.stop, STOP, Interest::Read)?;
        Ok(poller)
    }

    /// Takes what has come to an end, a batch at a time so that nothing due waits for long.
    fn take(&mut self, end: usize) {
        let impairment = lock(&self.shared.impairment).clone();
        for _ in 0..64 {
            let frame = match self.ends[end].capture.next_frame() {
                Ok(Some(frame)) if frame.outgoing => continue,
                Ok(Some(frame)) => frame.bytes.to_vec(),
                // Nothing more waits; an interface that is down comes up again.
                Ok(None) | Err(_) => return,
            };
            self.accept(end, frame, &impairment);
        }
    }

    fn accept(&mut self, end: usize, mut frame: Vec<u8>, impairment: &Impairment) {
        let now = Instant::now();
        let mut counts = lock(&self.shared.counts);
        counts.entered += 1;
        if self.random.chance(impairment.loss) {
            counts.lost += 1;
            return;
        }
        let this = &mut self.ends[end];
        let mut sent = now;
        if let Some(rate) = impairment.rate {
            if this.queued + frame.len() > impairment.queue {
                counts.overflowed += 1;
                return;
            }
            let bits = u64::try_from(frame.len()).unwrap_or(u64::MAX).saturating_mul(8);
            let takes = Duration::from_nanos(bits.saturating_mul(1_000_000_000) / rate.max(1));
            sent = this.free_at.map_or(now, |free| free.max(now)) + takes;
            this.free_at = Some(sent);
        }
        this.queued += frame.len();
        complete_checksums(&mut frame);
        let mut due = sent + impairment.delay + self.random.up_to(impairment.jitter);
        if self.random.chance(impairment.reorder) {
            counts.reordered += 1;
            due = sent;
        }
        if self.random.chance(impairment.duplication) {
            counts.duplicated += 1;
            let again = sent + impairment.delay + self.random.up_to(impairment.jitter);
            self.ends[end].queued += frame.len();
            self.sequence += 1;
            let copy = UnderWay {
                due: again,
                sequence: self.sequence,
                entered_at: end,
                frame: frame.clone(),
            };
            self.under_way.push(Reverse(copy));
        }
        self.sequence += 1;
        self.under_way.push(Reverse(UnderWay {
            due,
            sequence: self.sequence,
            entered_at: end,
            frame,
        }));
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.under_way.peek().is_some_and(|next| next.0.due <= now) {
            let Some(Reverse(next)) = self.under_way.pop() else {
                return;
            };
            self.ends[next.entered_at].queued -= next.frame.len();
            let sent = self.ends[1 - next.entered_at].sender.send(&next.frame);
            let mut counts = lock(&self.shared.counts);
            match sent {
                Ok(()) => counts.left += 1,
                Err(_) => counts.refused += 1,
            }
        }
    }
}
