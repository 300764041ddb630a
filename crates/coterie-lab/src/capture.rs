//! Seeing what is on a wire, and judging it while it passes.
//!
//! A frame's way: the kernel hands it to the reading thread, which does nothing but take frames so that few are lost; the
//! judging thread counts it, searches it for canaries, writes it to the pcap file and keeps it in a ring.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aho_corasick::{AhoCorasick, MatchKind};
use coterie_io::capture::{Capture as Socket, PcapWriter};
use coterie_io::poll::{Interest, Poller, Waker};

use crate::address::MacAddr;
use crate::error::{LabError, Result};
use crate::fabric::lock;
use crate::frame::{Frame, Kind, Network, TCP};

/// What a capture keeps and looks for.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    canaries: Vec<Vec<u8>>,
    ring: usize,
    pcap: Option<(PathBuf, u64)>,
    mac: Option<MacAddr>,
    addresses: Vec<IpAddr>,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            canaries: Vec::new(),
            ring: 64 << 20,
            pcap: None,
            mac: None,
            addresses: Vec::new(),
        }
    }
}

impl CaptureOptions {
    /// Looks for these bytes in every frame of the run, and where a TCP stream is cut into segments. An empty canary is
    /// ignored.
    #[must_use]
    pub fn canary(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        if !bytes.is_empty() && !self.canaries.contains(&bytes) {
            self.canaries.push(bytes);
        }
        self
    }

    /// Keeps the last frames up to this many bytes; 64 MiB unless set. Counts and canaries are of all frames regardless.
    #[must_use]
    pub fn ring(mut self, bytes: usize) -> Self {
        self.ring = bytes;
        self
    }

    /// Writes frames to a file that Wireshark opens, until it has `limit` bytes. It is whole when the capture is dropped.
    #[must_use]
    pub fn pcap(mut self, path: impl Into<PathBuf>, limit: u64) -> Self {
        self.pcap = Some((path.into(), limit));
        self
    }

    /// Whose answers count as such.
    pub(crate) fn about(mut self, mac: Option<MacAddr>, addresses: Vec<IpAddr>) -> Self {
        self.mac = mac;
        self.addresses = addresses;
        self
    }
}

/// A frame as it was captured.
#[derive(Debug, Clone)]
pub struct CapturedFrame {
    /// When, since 1970.
    pub time: Duration,
    /// From the destination's hardware address on.
    pub bytes: Arc<[u8]>,
    /// Sent by the host that captures.
    pub outgoing: bool,
}

impl CapturedFrame {
    /// What it says. `None` when it is too short to be a frame.
    #[must_use]
    pub fn parse(&self) -> Option<Frame<'_>> {
        Frame::parse(&self.bytes)
    }
}

/// Frames that came for the capturing host: to its hardware address or one of its IP addresses, other than ARP and
/// neighbour discovery.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// How many.
    pub frames: u64,
    /// Their bytes, with headers.
    pub bytes: u64,
    /// The first of them, to see what they were.
    pub first: Vec<CapturedFrame>,
}

/// A capture that runs until it is dropped. Everything asked of it is about all frames that had arrived when it was asked.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    wake: Waker,
    /// What the reader is asked for: the number of the last flush, or [`STOP`].
    asked: AtomicU64,
    flushed: Mutex<u64>,
    progress: Condvar,
    waiting_bytes: AtomicUsize,
    lost: AtomicU64,
    judged: Mutex<Judged>,
}

/// From the reading to the judging thread.
enum Message {
    Frames(Vec<CapturedFrame>),
    Flushed(u64),
}

const STOP: u64 = u64::MAX;
const BATCH: usize = 256;
/// Beyond this the reader waits for the judge, and the kernel counts what it loses meanwhile.
const WAITING_LIMIT: usize = 256 << 20;
const SAMPLES: usize = 16;
const FLUSH_DEADLINE: Duration = Duration::from_secs(20);

impl Capture {
    /// Starts capturing on an interface of the caller's network namespace.
    pub(crate) fn start(interface: &str, options: CaptureOptions) -> Result<Self> {
        let start = || -> std::io::Result<Self> {
            let socket = Socket::open(interface)?;
            let shared = Arc::new(Shared {
                wake: Waker::new()?,
                asked: AtomicU64::new(0),
                flushed: Mutex::new(0),
                progress: Condvar::new(),
                waiting_bytes: AtomicUsize::new(0),
                lost: AtomicU64::new(0),
                judged: Mutex::new(Judged::new(options)?),
            });
            let (sender, receiver) = channel();
            let reader = Reader {
                socket,
                sender,
                shared: Arc::clone(&shared),
            };
            let judge = Arc::clone(&shared);
            let threads = vec![
                std::thread::Builder::new()
                    .name("capture".to_owned())
                    .spawn(move || reader.read())?,
                std::thread::Builder::new()
                    .name("judge".to_owned())
                    .spawn(move || judge.judge(&receiver))?,
            ];
            Ok(Self { shared, threads })
        };
        start().map_err(LabError::io(format!("capture on {interface}")))
    }

    /// How many times a canary was seen. One that is not among the options is searched for in the frames of the ring
    /// only; see [`Self::evicted`].
    #[must_use]
    pub fn sightings(&self, canary: impl AsRef<[u8]>) -> u64 {
        self.settle();
        lock(&self.shared.judged).sightings(canary.as_ref())
    }

    /// Whether any canary of the options was seen.
    #[must_use]
    pub fn saw_a_canary(&self) -> bool {
        self.settle();
        lock(&self.shared.judged).seen.iter().any(|count| *count > 0)
    }

    /// How many frames and bytes of each kind there were, by who claims to have sent them.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<(MacAddr, Kind), (u64, u64)> {
        self.settle();
        lock(&self.shared.judged).kinds.clone()
    }

    /// The frames and bytes of each kind that a hardware address claims to have sent.
    #[must_use]
    pub fn kinds_from(&self, source: MacAddr) -> BTreeMap<Kind, (u64, u64)> {
        self.kinds()
            .into_iter()
            .filter(|((from, _), _)| *from == source)
            .map(|((_, kind), n)| (kind, n))
            .collect()
    }

    /// How many frames of the ring a filter accepts.
    #[must_use]
    pub fn count(&self, mut filter: impl FnMut(&Frame<'_>) -> bool) -> u64 {
        let frames = self.frames();
        let count = frames
            .iter()
            .filter_map(CapturedFrame::parse)
            .filter(|frame| filter(frame))
            .count();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// The frames of the ring, oldest first.
    #[must_use]
    pub fn frames(&self) -> Vec<CapturedFrame> {
        self.settle();
        lock(&self.shared.judged).ring.iter().cloned().collect()
    }

    /// What came for the capturing host, since the start.
    #[must_use]
    pub fn answers(&self) -> Answers {
        self.settle();
        lock(&self.shared.judged).answers.clone()
    }

    /// All frames since the start, and their bytes.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.settle();
        let judged = lock(&self.shared.judged);
        judged
            .kinds
            .values()
            .fold((0, 0), |(frames, bytes), (f, b)| (frames + f, bytes + b))
    }

    /// Frames that passed, and were counted and searched, but are in the ring no more.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        lock(&self.shared.judged).evicted
    }

    /// Frames that the kernel had no room for. Unless it is 0, nothing can be said about all frames.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.settle();
        self.shared.lost.load(Ordering::Acquire)
    }

    /// Why the pcap file is not whole, if it is not.
    #[must_use]
    pub fn pcap_failure(&self) -> Option<String> {
        lock(&self.shared.judged).pcap_failure.clone()
    }

    /// Waits until all that has arrived is judged.
    fn settle(&self) {
        let wanted = self.shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.shared.wake.wake();
        let flushed = lock(&self.shared.flushed);
        let result = self
            .shared
            .progress
            .wait_timeout_while(flushed, FLUSH_DEADLINE, |done| *done < wanted);
        let (done, _) = result.unwrap_or_else(PoisonError::into_inner);
        assert!(
            *done >= wanted,
            "the capture's threads ended or stood still for {FLUSH_DEADLINE:?}"
        );
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.asked.store(STOP, Ordering::Release);
        self.shared.wake.wake();
        for thread in self.threads.drain(..) {
            // Its panic has been reported on standard error already.
            let _: std::thread::Result<()> = thread.join();
        }
        if let Some((pcap, _)) = lock(&self.shared.judged).pcap.take()
            && let Err(error) = pcap.finish()
        {
            eprintln!("the pcap file is not whole: {error}");
        }
    }
}

struct Reader {
    socket: Socket,
    sender: Sender<Message>,
    shared: Arc<Shared>,
}

impl Reader {
    fn read(mut self) {
        let mut poller = self.poller().expect("the process has descriptors left");
        let mut flushed = 0;
        loop {
            while self.take_batch() == BATCH {}
            let asked = self.shared.asked.load(Ordering::Acquire);
            if asked == STOP {
                return;
            }
            if asked != flushed {
                // The flush was asked for before this batch: whatever had arrived then is in it or in an earlier one.
                self.shared.wake.drain();
                self.take_batch();
                if let Ok(lost) = self.socket.lost() {
                    self.shared.lost.store(lost, Ordering::Release);
                }
                flushed = asked;
                if self.sender.send(Message::Flushed(asked)).is_err() {
                    return;
                }
                continue;
            }
            if poller.wait(None).is_err() {
                return;
            }
        }
    }

    fn poller(&self) -> std::io::Result<Poller> {
        let poller = Poller::new()?;
        poller.add(&self.socket, 0, Interest::Read)?;
        poller.add(&self.shared.wake, 1, Interest::Read)?;
        Ok(poller)
    }

    /// Takes frames from the kernel, and returns how many.
    fn take_batch(&mut self) -> usize {
        let mut frames = Vec::new();
        let mut bytes = 0;
        while frames.len() < BATCH {
            match self.socket.next_frame() {
                Ok(Some(frame)) => {
                    bytes += frame.bytes.len();
                    frames.push(CapturedFrame {
                        time: frame.time,
                        bytes: Arc::from(frame.bytes),
                        outgoing: frame.outgoing,
                    });
                }
                // Nothing more waits; an interface that is down comes up again.
                Ok(None) | Err(_) => break,
            }
        }
        let count = frames.len();
        if count > 0 {
            let waiting = self.shared.waiting_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
            let _: std::result::Result<(), _> = self.sender.send(Message::Frames(frames));
            if waiting > WAITING_LIMIT {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        count
    }
}

impl Shared {
    fn judge(&self, receiver: &Receiver<Message>) {
        for message in receiver {
            match message {
                Message::Frames(frames) => {
                    let bytes = frames.iter().map(|frame| frame.bytes.len()).sum();
                    let mut judged = lock(&self.judged);
                    for frame in frames {
                        judged.judge(frame);
                    }
                    self.waiting_bytes.fetch_sub(bytes, Ordering::AcqRel);
                }
                Message::Flushed(number) => {
                    *lock(&self.flushed) = number;
                    self.progress.notify_all();
                }
            }
        }
    }
}

/// One direction of a TCP connection as it passes, between two interfaces.
type Stream = (MacAddr, MacAddr, IpAddr, IpAddr, (u16, u16));

#[derive(Debug)]
struct Judged {
    options: CaptureOptions,
    searcher: AhoCorasick,
    /// How often each canary of the options was seen.
    seen: Vec<u64>,
    /// The last bytes of each stream, one fewer than the longest canary has.
    tails: BTreeMap<Stream, Vec<u8>>,
    kinds: BTreeMap<(MacAddr, Kind), (u64, u64)>,
    answers: Answers,
    ring: VecDeque<CapturedFrame>,
    ring_bytes: usize,
    evicted: u64,
    pcap: Option<(PcapWriter<BufWriter<File>>, u64)>,
    pcap_failure: Option<String>,
}

impl Judged {
    /// Connections whose tails are kept; a run of the lab has far fewer.
    const STREAMS: usize = 1 << 16;

    fn new(options: CaptureOptions) -> std::io::Result<Self> {
        let searcher = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&options.canaries)
            .map_err(std::io::Error::other)?;
        let pcap = match &options.pcap {
            Some((path, limit)) => Some((PcapWriter::new(BufWriter::new(File::create(path)?))?, *limit)),
            None => None,
        };
        Ok(Self {
            seen: vec![0; options.canaries.len()],
            searcher,
            options,
            tails: BTreeMap::new(),
            kinds: BTreeMap::new(),
            answers: Answers::default(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            evicted: 0,
            pcap,
            pcap_failure: None,
        })
    }

    fn judge(&mut self, frame: CapturedFrame) {
        if !self.options.canaries.is_empty() {
            for found in self.searcher.find_overlapping_iter(&*frame.bytes) {
                self.seen[found.pattern().as_usize()] += 1;
            }
        }
        if let Some(parsed) = frame.parse() {
            let length = u64::try_from(frame.bytes.len()).unwrap_or(u64::MAX);
            let counted = self.kinds.entry((parsed.source, parsed.kind())).or_default();
            counted.0 += 1;
            counted.1 += length;
            self.search_stream(&parsed);
            if !frame.outgoing && self.is_answer(&parsed) {
                self.answers.frames += 1;
                self.answers.bytes += length;
                if self.answers.first.len() < SAMPLES {
                    self.answers.first.push(frame.clone());
                }
            }
        }
        self.write(&frame);
        self.ring_bytes += frame.bytes.len();
        self.ring.push_back(frame);
        while self.ring_bytes > self.options.ring
            && let Some(oldest) = self.ring.pop_front()
        {
            self.ring_bytes -= oldest.bytes.len();
            self.evicted += 1;
        }
    }

    /// Looks for canaries that begin in one segment of a stream and end in the next.
    fn search_stream(&mut self, frame: &Frame<'_>) {
        let Network::Ip {
            source,
            destination,
            protocol: TCP,
            ports: Some(ports),
            ..
        } = frame.network
        else {
            return;
        };
        let keep = self
            .options
            .canaries
            .iter()
            .map(Vec::len)
            .max()
            .unwrap_or(0)
            .saturating_sub(1);
        if keep == 0 || frame.payload.is_empty() {
            return;
        }
        if self.tails.len() >= Self::STREAMS {
            self.tails.clear();
        }
        let tail = self
            .tails
            .entry((frame.source, frame.destination, source, destination, ports))
            .or_default();
        let border = tail.len();
        tail.extend_from_slice(&frame.payload[..frame.payload.len().min(keep)]);
        for found in self.searcher.find_overlapping_iter(&**tail) {
            if found.start() < border && found.end() > border {
                self.seen[found.pattern().as_usize()] += 1;
            }
        }
        if frame.payload.len() >= keep {
            tail.clear();
            tail.extend_from_slice(&frame.payload[frame.payload.len() - keep..]);
        } else {
            tail.drain(..tail.len().saturating_sub(keep));
        }
    }

    fn is_answer(&self, frame: &Frame<'_>) -> bool {
        if frame.is_discovery() || Some(frame.source) == self.options.mac {
            return false;
        }
        let by_address = match frame.network {
            Network::Ip { destination, .. } => self.options.addresses.contains(&destination),
            Network::Arp { .. } | Network::Other => false,
        };
        Some(frame.destination) == self.options.mac || by_address
    }

    fn write(&mut self, frame: &CapturedFrame) {
        let Some((pcap, left)) = &mut self.pcap else { return };
        let length = u64::try_from(frame.bytes.len()).unwrap_or(u64::MAX) + 16;
        if length > *left {
            self.pcap_failure
                .get_or_insert_with(|| "it has reached its limit".to_owned());
            return;
        }
        *left -= length;
        if let Err(error) = pcap.write(frame.time, &frame.bytes) {
            self.pcap_failure.get_or_insert_with(|| error.to_string());
        }
    }

    fn sightings(&self, canary: &[u8]) -> u64 {
        if let Some(index) = self.options.canaries.iter().position(|known| known == canary) {
            return self.seen[index];
        }
        let Ok(searcher) = AhoCorasick::new([canary]) else {
            return 0;
        };
        let count = self
            .ring
            .iter()
            .map(|frame| searcher.find_iter(&*frame.bytes).count())
            .sum::<usize>();
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(payload: &[u8]) -> CapturedFrame {
        let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0];
        let total = u16::try_from(40 + payload.len()).expect("a short segment");
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend([0, 80, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        CapturedFrame {
            time: Duration::ZERO,
            bytes: frame.into(),
            outgoing: false,
        }
    }

    #[test]
    fn a_canary_is_found_whole_cut_in_two_and_cut_in_many() {
        for (segments, expected) in [
            (vec![&b"..needle.."[..]], 1),
            (vec![b"..need", b"le.."], 1),
            (vec![b"n", b"e", b"e", b"d", b"l", b"e"], 1),
            (vec![b"needle", b"needle"], 2),
            (vec![b"nee", b"dl", b"x"], 0),
        ] {
            let mut judged = Judged::new(CaptureOptions::default().canary("needle")).expect("no file is written");
            for payload in &segments {
                judged.judge(segment(payload));
            }
            assert_eq!(judged.sightings(b"needle"), expected, "{segments:?}");
        }
    }

    #[test]
    fn the_ring_keeps_the_last_frames_and_counts_the_rest() {
        let size = segment(b"0").bytes.len();
        let mut judged = Judged::new(CaptureOptions::default().ring(2 * size)).expect("no file is written");
        for payload in [b"1", b"2", b"3"] {
            judged.judge(segment(payload));
        }
        assert_eq!((judged.ring.len(), judged.evicted), (2, 1));
        assert_eq!(judged.kinds.values().map(|(frames, _)| frames).sum::<u64>(), 3);
    }

    #[test]
    fn only_what_comes_for_the_host_is_an_answer() {
        let about = |mac: [u8; 6], address: &str| {
            let address = address.parse().expect("an address");
            let options = CaptureOptions::default().about(Some(MacAddr(mac)), vec![address]);
            let mut judged = Judged::new(options).expect("no file is written");
            judged.judge(segment(b"abc"));
            judged.answers.frames
        };
        assert_eq!(about([2, 0, 0, 0, 0, 2], "192.0.2.9"), 1);
        assert_eq!(about([2, 0, 0, 0, 0, 9], "192.0.2.2"), 1);
        assert_eq!(about([2, 0, 0, 0, 0, 9], "192.0.2.9"), 0);
        assert_eq!(about([2, 0, 0, 0, 0, 1], "192.0.2.2"), 0, "from the host itself");
    }
}
