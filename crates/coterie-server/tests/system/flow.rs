//! Datagrams between inside addresses: what was sent and what came.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coterie_lab::wait_for;

use crate::site::{DEADLINE, Machine};

const PORT: u16 = 7007;
const EAR_PORT: u16 = 7008;

/// A flow that runs until it is ended.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<BTreeSet<u64>>,
}

impl Flow {
    /// Sends `rate` datagrams a second from one machine to another.
    pub(crate) fn start(from: &Machine, to: &Machine, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let target = SocketAddr::new(to.inside(), PORT);
        let (host, stopping) = (to.host.clone(), Arc::clone(&stop));
        let (bound, is_bound) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            let count = || {
                let socket = UdpSocket::bind(target).expect("bound");
                // What the machine's load keeps this thread from reading is not lost on the way: a second of the flow has room,
                // where the system grants it.
                let _as_it_is = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20);
                socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
                bound.send(()).expect("somebody waits");
                let (mut seen, mut bytes) = (BTreeSet::new(), [0; 256]);
                let mut ends = None;
                loop {
                    if let Ok((8.., _)) = socket.recv_from(&mut bytes) {
                        seen.insert(u64::from_be_bytes(*bytes.first_chunk().expect("eight bytes")));
                    }
                    if stopping.load(Ordering::Relaxed) {
                        let ends = *ends.get_or_insert_with(|| Instant::now() + Duration::from_secs(1));
                        if Instant::now() >= ends {
                            return seen;
                        }
                    }
                }
            };
            host.within(count).expect("the host is there")
        });
        is_bound.recv().expect("the receiver listens");
        let sent: Arc<AtomicU64> = Arc::default();
        let (host, stopping, counted) = (from.host.clone(), Arc::clone(&stop), Arc::clone(&sent));
        let sender = std::thread::spawn(move || {
            let send = || {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
                let (began, mut sent) = (Instant::now(), 0_u64);
                while !stopping.load(Ordering::Relaxed) {
                    let due =
                        u64::from(rate) * u64::try_from(began.elapsed().as_micros()).expect("not for ever") / 1_000_000;
                    while sent < due {
                        let mut bytes = [0; 200];
                        bytes[..8].copy_from_slice(&sent.to_be_bytes());
                        // A datagram that the interface does not take is one that is lost.
                        let _counted = socket.send_to(&bytes, target);
                        sent += 1;
                    }
                    counted.store(sent, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
                sent
            };
            host.within(send).expect("the host is there")
        });
        Self {
            stop,
            sent,
            sender,
            receiver,
        }
    }

    /// Waits until so many more datagrams are sent.
    pub(crate) fn go_on(&self, more: u64) {
        let until = self.sent.load(Ordering::Relaxed) + more;
        wait_for("the flow to go on", DEADLINE, || {
            (self.sent.load(Ordering::Relaxed) >= until).then_some(())
        })
        .expect("it does");
    }

    /// Ends the flow; gives how many were sent and how many did not come.
    pub(crate) fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender ends");
        let seen = self.receiver.join().expect("the receiver ends");
        (sent, sent - u64::try_from(seen.len()).expect("a count"))
    }
}

/// Listens at a machine's inside address, and notes whom it heard.
pub(crate) struct Ear {
    target: SocketAddr,
    heard: Arc<Mutex<BTreeSet<IpAddr>>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Ear {
    pub(crate) fn at(machine: &Machine) -> Self {
        let target = SocketAddr::new(machine.inside(), EAR_PORT);
        let heard: Arc<Mutex<BTreeSet<IpAddr>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (host, noted, stopping) = (machine.host.clone(), Arc::clone(&heard), Arc::clone(&stop));
        let (bound, is_bound) = std::sync::mpsc::channel();
        let listener = std::thread::spawn(move || {
            let listen = || {
                let socket = UdpSocket::bind(target).expect("bound");
                socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
                bound.send(()).expect("somebody waits");
                while !stopping.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                        noted.lock().expect("no panic").insert(from.ip());
                    }
                }
            };
            host.within(listen).expect("the host is there");
        });
        is_bound.recv().expect("it listens");
        Self {
            target,
            heard,
            stop,
            listener: Some(listener),
        }
    }

    /// Sends it one datagram, which the sender's system takes.
    pub(crate) fn called_by(&self, machine: &Machine) {
        let send = || UdpSocket::bind("0.0.0.0:0")?.send_to(b"here I am", self.target);
        machine
            .host
            .within(send)
            .expect("the host is there")
            .expect("it is sent");
    }

    pub(crate) fn has_heard(&self, from: IpAddr) -> bool {
        self.heard.lock().expect("no panic").contains(&from)
    }

    /// From which addresses something came by now.
    pub(crate) fn heard(&self) -> BTreeSet<IpAddr> {
        self.heard.lock().expect("no panic").clone()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ended = listener.join();
        }
    }
}
