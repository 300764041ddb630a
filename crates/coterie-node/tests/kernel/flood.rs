//! A machine in 64 communities under a flood of forged handshakes still answers its members.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coterie_api::{Client, Request};
use coterie_crypto::{Entropy, SeededEntropy};
use coterie_lab::{wait_for, within_namespaces};

use crate::site::{DEADLINE, Site};

/// Sessions that members make during the flood.
const LEGITIMATE: usize = 100;
/// Forged initiations a second, unless `COTERIE_FLOOD_RATE` asks for more.
const RATE: u64 = 20_000;

#[test]
fn members_are_answered_under_a_flood_of_forged_handshakes() {
    within_namespaces(|| {
        let communities: Vec<String> = (0..64).map(|n| format!("c{n}")).collect();
        let communities: Vec<&str> = communities.iter().map(String::as_str).collect();
        let mut site = Site::new(&[
            ("victim", &communities),
            ("member", &communities[63..]),
            ("flooder", &["other"]),
        ]);
        site.machine_mut("victim").start();
        site.machine_mut("member").start();
        site.machine("victim").wait_ready();
        site.machine("member").wait_ready();
        let to: SocketAddr = "192.0.2.1:4747".parse().expect("an address");
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let began = Instant::now();
        let (times, elapsed) = std::thread::scope(|scope| {
            let host = &site.machine("flooder").host;
            scope.spawn(|| host.within(|| flood(to, &stop, &sent)).expect("within the host"));
            let flowing = || (sent.load(Ordering::Relaxed) > 10_000).then_some(());
            let flows = wait_for("the flood to flow", DEADLINE, flowing);
            let times: Vec<Duration> = (0..LEGITIMATE).map(|_| fresh_session(&site)).collect();
            stop.store(true, Ordering::Relaxed);
            flows.expect("the flood flows");
            (times, began.elapsed())
        });
        let in_time = times.iter().filter(|t| **t <= Duration::from_secs(1)).count();
        let rate = sent.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
        let drops = site.machine("victim").status().counters.drops;
        eprintln!(
            "{rate:.0} forged a second, {in_time} of {LEGITIMATE} members answered within 1 s; victim dropped {drops:?}"
        );
        assert!(in_time * 100 >= LEGITIMATE * 99, "{times:?}");
        assert!(
            drops.get("stranger").copied().unwrap_or(0) > 10_000,
            "the flood reached the victim: {drops:?}"
        );
    });
}

/// How long a new session of the member with the victim takes: the member starts anew and has none.
fn fresh_session(site: &Site) -> Duration {
    let member = site.machine("member");
    let started = member.daemon().kill().and_then(|_| member.daemon().restart());
    let socket = || Client::connect(&member.socket()).ok();
    if started.is_err() || wait_for("the member to be ready", DEADLINE, socket).is_err() {
        return Duration::MAX;
    }
    let request = Request::Ping {
        destination: "victim".into(),
        timeout_ms: 5000,
    };
    let asked = Instant::now();
    match socket().map(|mut client| client.call(&request)) {
        Some(Ok(_)) => asked.elapsed(),
        Some(Err(_)) | None => Duration::MAX,
    }
}

/// Well-formed initiations with random contents, as many a second as asked for or as this machine sends.
fn flood(to: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
    let mut entropy = SeededEntropy::from_number(1);
    let mut message = [0; 363];
    entropy.fill(&mut message);
    message[..4].copy_from_slice(&[1, 0, 0, 0]);
    let asked = std::env::var("COTERIE_FLOOD_RATE").ok().and_then(|r| r.parse().ok());
    let rate: u64 = asked.unwrap_or(RATE);
    let started = Instant::now();
    let mut n: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(started.elapsed().as_micros()).expect("a short test") * rate / 1_000_000;
        if n >= due {
            std::thread::sleep(Duration::from_micros(200));
        }
        while n < due {
            n += 1;
            message[8..16].copy_from_slice(&n.to_be_bytes());
            if socket.send_to(&message, to).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
