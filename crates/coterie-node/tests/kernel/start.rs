//! From the start of `coteried` with a bundle to the first packet that is delivered.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coterie_lab::within_namespaces;

use crate::site::Site;

const ROUNDS: usize = 9;

#[test]
fn the_first_packet_is_delivered_in_60_ms() {
    within_namespaces(|| {
        let mut site = Site::new(&[("one", &["both"]), ("two", &["both"])]);
        site.start();
        let server = SocketAddr::new(site.machine("two").inside, 7007);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let host = &site.machine("two").host;
            scope.spawn(|| host.within(|| echo(server, &stop)).expect("within the host"));
            let mut times: Vec<Duration> = (0..ROUNDS)
                .map(|_| {
                    site_restart(&site);
                    let one = site.machine("one");
                    let started = Instant::now();
                    let child = one.command().spawn().expect("coteried starts");
                    one.host.within(|| first_answer(server)).expect("within the host");
                    let took = started.elapsed();
                    child.kill().expect("killed");
                    took
                })
                .collect();
            stop.store(true, Ordering::Relaxed);
            times.sort_unstable();
            eprintln!(
                "start to first delivered packet: median {:?}, all {times:?}",
                times[ROUNDS / 2]
            );
            assert!(times[ROUNDS / 2] <= Duration::from_millis(60), "{times:?}");
        });
    });
}

/// Nothing of the run before is left: the daemon of `one` is gone, its state too.
fn site_restart(site: &Site) {
    let one = site.machine("one");
    if one.daemon().is_running() {
        one.daemon().kill().expect("killed");
    }
}

pub(crate) fn echo(at: SocketAddr, stop: &AtomicBool) {
    let socket = UdpSocket::bind(at).expect("bound");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    let mut bytes = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            // The asker may be gone again.
            let _gone = socket.send_to(&bytes[..len], from);
        }
    }
}

/// Sends until an answer comes.
pub(crate) fn first_answer(to: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else {
            continue;
        };
        socket.set_read_timeout(Some(Duration::from_millis(2))).expect("set");
        if socket.connect(to).is_err() || socket.send(b"first").is_err() {
            std::thread::yield_now();
            continue;
        }
        if socket.recv(&mut [0; 16]).is_ok() {
            return;
        }
    }
    panic!("no answer in 10 s");
}
