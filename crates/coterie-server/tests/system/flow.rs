//! Numbered datagrams between two inside addresses: what was sent and what came.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::site::Machine;

const PORT: u16 = 7007;

/// A flow that runs until it is ended.
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
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
        let (host, stopping) = (from.host.clone(), Arc::clone(&stop));
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
                    std::thread::sleep(Duration::from_millis(1));
                }
                sent
            };
            host.within(send).expect("the host is there")
        });
        Self { stop, sender, receiver }
    }

    /// Ends the flow; gives how many were sent and how many did not come.
    pub(crate) fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender ends");
        let seen = self.receiver.join().expect("the receiver ends");
        (sent, sent - u64::try_from(seen.len()).expect("a count"))
    }
}
