//! Hosts, bridges and wires carry traffic as real ones do.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coterie_lab::programs::Ping;
use coterie_lab::{
    Bridge, CaptureOptions, Event, Host, HostCommand, Impairment, Lab, LabError, LabOptions, OUTSIDE, Signal, retry,
    within_namespaces,
};

const DEADLINE: Duration = Duration::from_secs(10);

fn lab() -> Lab {
    Lab::new(LabOptions::default()).expect("a lab")
}

fn host(lab: &Lab, name: &str, bridge: &Bridge, number: u8) -> Host {
    let v4 = format!("192.0.2.{number}/24").parse().expect("an address");
    let v6 = format!("2001:db8::{number}/64").parse().expect("an address");
    lab.host(name, bridge, &[v4, v6]).expect("a host")
}

/// A script that writes what it is told to, and lives on.
fn script(host: &Host, text: &str) -> HostCommand {
    host.command("sh").args(["-c", text])
}

#[test]
fn hosts_reach_one_another_on_a_bridge_and_across_at_once() {
    within_namespaces(|| {
        let lab = lab();
        let (one, two) = (
            lab.bridge("rack-1").expect("a bridge"),
            lab.bridge("rack-2").expect("a bridge"),
        );
        lab.link(&one, &two).expect("a wire");
        let web = host(&lab, "web-1", &one, 1);
        host(&lab, "web-2", &one, 2);
        host(&lab, "app-1", &two, 3);
        for target in [
            "web-2",
            "app-1",
            "2001:db8::2",
            "2001:db8::3",
            "fe80::c0:7eff:fe00:300%eth0",
        ] {
            let output = web.run("ping", &["-c", "1", "-W", "2", target]).expect("ping runs");
            assert!(output.is_success(), "{target}: {}{}", output.stdout, output.stderr);
            assert!(output.took < Duration::from_secs(1), "{target} took {:?}", output.took);
        }
        let name = web.run("uname", &["-n"]).expect("uname runs");
        assert_eq!(name.stdout, "web-1\n");
    });
}

#[test]
fn hosts_on_bridges_that_nothing_joins_do_not_reach_one_another() {
    within_namespaces(|| {
        let lab = lab();
        let (one, two) = (
            lab.bridge("rack-1").expect("a bridge"),
            lab.bridge("rack-2").expect("a bridge"),
        );
        let (web, app) = (host(&lab, "web-1", &one, 1), host(&lab, "app-1", &two, 2));
        let to = app.ipv4().expect("an address");
        let ping = Ping::new(to)
            .timeout(Duration::from_millis(300))
            .from(&web)
            .expect("ping runs");
        assert_eq!(ping.received, 0, "{ping:?}");
        let wire = lab.link(&one, &two).expect("a wire");
        let reached = || {
            Ping::new(to)
                .timeout(Duration::from_millis(300))
                .from(&web)
                .map(|ping| ping.is_success())
        };
        web.wait_for("the new wire", DEADLINE, || reached().expect("ping runs").then_some(()))
            .expect("reached");
        wire.down().expect("cut");
        assert!(!reached().expect("ping runs"));
        wire.up().expect("mended");
        web.wait_for("the mended wire", DEADLINE, || {
            reached().expect("ping runs").then_some(())
        })
        .expect("reached");
    });
}

#[test]
fn an_interface_that_goes_down_comes_back() {
    within_namespaces(|| {
        let lab = lab();
        let bridge = lab.bridge("rack-1").expect("a bridge");
        let (web, app) = (host(&lab, "web-1", &bridge, 1), host(&lab, "app-1", &bridge, 2));
        let ping = |host: &Host| {
            let to = host.ipv6().expect("an address");
            Ping::new(to)
                .timeout(Duration::from_millis(300))
                .from(&web)
                .expect("ping runs")
                .is_success()
        };
        assert!(ping(&app));
        app.link_down(OUTSIDE).expect("down");
        assert!(!ping(&app));
        app.link_up(OUTSIDE).expect("up");
        web.wait_for("the interface", DEADLINE, || ping(&app).then_some(()))
            .expect("it comes back");
        assert!(matches!(app.link_down("eth7"), Err(LabError::Name { .. })));
    });
}

#[test]
fn a_host_has_its_own_files_name_and_second_interface() {
    within_namespaces(|| {
        let options = LabOptions {
            resolv_conf: Some("nameserver 192.0.2.53\n".to_owned()),
            ..LabOptions::default()
        };
        let lab = Lab::new(options).expect("a lab");
        let (one, two) = (
            lab.bridge("rack-1").expect("a bridge"),
            lab.bridge("rack-2").expect("a bridge"),
        );
        let (web, app) = (host(&lab, "web-1", &one, 1), host(&lab, "app-1", &one, 2));
        let inside = |host: &Host, text: &str| {
            script(host, text)
                .run()
                .expect("sh runs")
                .check()
                .expect("success")
                .stdout
        };

        inside(&web, "echo web > /run/mine");
        assert_eq!(inside(&app, "cat /run/mine || echo none"), "none\n");
        assert_eq!(
            std::fs::read_to_string(web.directory().join("run/mine")).expect("the same file"),
            "web\n"
        );
        assert_eq!(inside(&web, "cat /etc/resolv.conf"), "nameserver 192.0.2.53\n");
        assert_eq!(inside(&web, "ls /sys/class/net"), "eth0\nlo\n");
        let path = web.write_file("conf/a.toml", "key = 1\n").expect("written");
        assert_eq!(inside(&app, &format!("cat {}", path.display())), "key = 1\n");
        assert_eq!(inside(&web, "env | grep -c -i proxy || :"), "0\n");

        web.attach("eth1", &two, &["198.51.100.1/24".parse().expect("an address")])
            .expect("attached");
        assert_eq!(inside(&web, "ls /sys/class/net"), "eth0\neth1\nlo\n");
        assert_eq!(
            inside(&app, "getent hosts 198.51.100.1").split_whitespace().last(),
            Some("web-1")
        );
        assert_eq!(lab.mac_of(web.ipv4().expect("an address")), Some(web.mac()));
    });
}

#[test]
fn a_program_is_started_signalled_killed_and_started_again() {
    within_namespaces(|| {
        let lab = lab();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        lab.on_event(move |event| heard.lock().expect("no panic before").push(event.clone()));
        let web = host(&lab, "web-1", &lab.bridge("rack-1").expect("a bridge"), 1);
        let count = |text: &str, word: &str| text.lines().filter(|line| *line == word).count();

        let text =
            "trap 'echo hup' HUP; trap 'echo bye; exit 3' INT; echo up; echo err >&2; while :; do sleep 0.01; done";
        let child = script(&web, text).spawn().expect("started");
        web.wait_for("a start", DEADLINE, || {
            (count(&child.stdout(), "up") == 1).then_some(())
        })
        .expect("started");
        assert!(child.is_running() && child.stderr() == "err\n");
        child.signal(Signal::HUP);
        web.wait_for("a HUP", DEADLINE, || (count(&child.stdout(), "hup") == 1).then_some(()))
            .expect("heard");
        child.interrupt();
        assert_eq!(child.wait(DEADLINE).expect("ended").code(), Some(3));
        assert!(!child.is_running());

        child.restart().expect("started again");
        web.wait_for("a start", DEADLINE, || {
            (count(&child.stdout(), "up") == 2).then_some(())
        })
        .expect("started");
        child.restart().expect("started again while it runs");
        web.wait_for("a start", DEADLINE, || {
            (count(&child.stdout(), "up") == 3).then_some(())
        })
        .expect("started");
        let pid = child.pid();
        child.kill().expect("killed");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

        let events = events.lock().expect("no panic before");
        let started = events
            .iter()
            .filter(|event| matches!(event, Event::Started { .. }))
            .count();
        let ended = events
            .iter()
            .filter(|event| matches!(event, Event::Ended { .. }))
            .count();
        assert_eq!((started, ended), (3, 3), "{events:?}");
    });
}

#[test]
fn a_program_that_does_not_end_is_killed_at_its_deadline() {
    within_namespaces(|| {
        let lab = lab();
        let web = host(&lab, "web-1", &lab.bridge("rack-1").expect("a bridge"), 1);
        let command = script(&web, "echo half; sleep 1000 & sleep 1000").deadline(Duration::from_millis(200));
        let error = command.run().expect_err("it does not end");
        assert!(matches!(error, LabError::Deadline { .. }), "{error}");
        assert!(error.to_string().contains("half"), "{error}");
        let left = || {
            let found = std::process::Command::new("pgrep")
                .args(["-f", "^sleep 1000$"])
                .output()
                .expect("pgrep runs");
            found.stdout.is_empty().then_some(())
        };
        web.wait_for("the end of its children", DEADLINE, left)
            .expect("they are killed");
    });
}

#[test]
fn faults_of_an_interface_come_out_at_their_share() {
    within_namespaces(|| {
        let lab = lab();
        let bridge = lab.bridge("rack-1").expect("a bridge");
        let (web, app) = (host(&lab, "web-1", &bridge, 1), host(&lab, "app-1", &bridge, 2));
        if coterie_lab::programs::find("nft").is_none() {
            eprintln!("skipped: nft is not installed; install the package nftables");
            return;
        }
        let received = || send_numbered(&web, &app, 2000).len();
        app.add_loss(OUTSIDE, 30).expect("a rule");
        let through = received();
        assert!(
            (1200..1600).contains(&through),
            "{through} of 2000 came through a loss of 30 %"
        );
        app.add_loss(OUTSIDE, 0).expect("no rule");
        assert_eq!(received(), 2000);
        web.add_duplication(OUTSIDE, 20).expect("a rule");
        let twice = received();
        assert!(
            (2250..2600).contains(&twice),
            "{twice} for 2000 with a duplication of 20 %"
        );
        web.add_duplication(OUTSIDE, 0).expect("no rule");
        assert_eq!(received(), 2000);
    });
}

#[test]
fn an_impaired_wire_delays_loses_doubles_and_reorders() {
    within_namespaces(|| {
        let lab = lab();
        let (one, two) = (
            lab.bridge("rack-1").expect("a bridge"),
            lab.bridge("rack-2").expect("a bridge"),
        );
        let (web, app) = (host(&lab, "web-1", &one, 1), host(&lab, "app-1", &two, 2));
        let clean = Impairment {
            delay: Duration::from_millis(20),
            ..Impairment::default()
        };
        let wire = lab.link_with(&one, &two, &clean).expect("a wire");
        let ping = Ping::new(app.ipv4().expect("an address"))
            .count(5)
            .from(&web)
            .expect("ping runs");
        assert!(ping.is_success(), "{ping:?}");
        let [shortest, mean, _] = ping.times.expect("times");
        assert!(
            shortest >= Duration::from_millis(40) && mean < Duration::from_millis(60),
            "{ping:?}"
        );

        let numbers = send_numbered(&web, &app, 2000);
        assert!(
            numbers.iter().copied().eq(0..2000),
            "{} of 2000, or not in order",
            numbers.len()
        );

        let before = wire.counts().expect("an impaired wire counts");
        wire.impair(&Impairment {
            loss: 0.2,
            duplication: 0.1,
            reorder: 0.1,
            ..clean
        })
        .expect("impaired");
        let numbers = send_numbered(&web, &app, 2000);
        let after = wire.counts().expect("an impaired wire counts");
        let (lost, doubled) = (after.lost - before.lost, after.duplicated - before.duplicated);
        assert!((300..500).contains(&lost) && (100..220).contains(&doubled), "{after:?}");
        assert!(
            numbers.windows(2).any(|pair| pair[0] > pair[1]),
            "nothing was reordered"
        );
        assert!(!numbers.is_empty() && numbers.len() < 2000, "{}", numbers.len());
        assert_eq!((after.overflowed, after.refused, after.overrun), (0, 0, 0), "{after:?}");
    });
}

#[test]
fn an_impaired_wire_carries_tcp_at_its_rate() {
    within_namespaces(|| {
        use coterie_lab::programs::{IperfServer, Transfer};
        let lab = lab();
        let (one, two) = (
            lab.bridge("rack-1").expect("a bridge"),
            lab.bridge("rack-2").expect("a bridge"),
        );
        let (web, app) = (host(&lab, "web-1", &one, 1), host(&lab, "app-1", &two, 2));
        let impairment = Impairment {
            delay: Duration::from_millis(2),
            rate: Some(20_000_000),
            ..Impairment::default()
        };
        lab.link_with(&one, &two, &impairment).expect("a wire");
        let iperf = match IperfServer::start(&app, 5201) {
            Err(error) if error.is_skip() => return eprintln!("skipped: {error}"),
            started => started.expect("iperf3 starts"),
        };
        let transfer = Transfer::tcp(Duration::from_secs(2));
        let measured = transfer
            .run(&web, &iperf, app.ipv6().expect("an address"))
            .expect("a measurement");
        // Frames have headers that iperf3 does not count.
        assert!((10e6..20e6).contains(&measured.bits_per_second), "{measured:?}");
    });
}

#[test]
fn a_capture_sees_what_an_interface_and_a_bridge_carry() {
    within_namespaces(|| {
        let lab = lab();
        let bridge = lab.bridge("rack-1").expect("a bridge");
        let (web, app) = (host(&lab, "web-1", &bridge, 1), host(&lab, "app-1", &bridge, 2));
        let pcap = lab.directory().join("run.pcap");
        let at_bridge = lab.capture(&bridge, CaptureOptions::default().canary("needle").pcap(&pcap, 1 << 20));
        let at_bridge = at_bridge.expect("a capture");
        let at_app = app
            .capture(OUTSIDE, CaptureOptions::default().canary("needle"))
            .expect("a capture");
        send(&web, &app, &[b"hay", b"a needle in hay"]);
        for capture in [&at_bridge, &at_app] {
            assert_eq!(capture.sightings("needle"), 1);
            assert_eq!(capture.sightings("hay"), 2, "a word that nobody was told to look for");
            assert!(capture.saw_a_canary());
            assert_eq!(
                capture.count(|frame| frame.source == web.mac() && frame.payload.ends_with(b"hay")),
                2
            );
            assert_eq!((capture.lost(), capture.evicted()), (0, 0));
        }
        let sent = at_app.kinds_from(web.mac());
        let (frames, bytes) = sent
            .iter()
            .find(|(kind, _)| kind.is_udp_to(7000))
            .map(|(_, n)| *n)
            .expect("datagrams");
        // Behind them are marks of six bytes, at least one.
        assert!(
            frames > 2 && bytes == frames * 42 + 3 + 15 + (frames - 2) * 6,
            "{frames} frames, {bytes} bytes"
        );
        let frames = at_bridge.totals().0;
        drop(at_bridge);
        let file = std::fs::read(&pcap).expect("a file");
        assert_eq!(file[..4], 0xa1b2_3c4d_u32.to_le_bytes());
        assert_eq!(pcap_records(&file), frames);
    });
}

/// How many records a pcap file has.
fn pcap_records(file: &[u8]) -> u64 {
    let (mut at, mut count) = (24, 0);
    while let Some(length) = file.get(at + 8..at + 12) {
        at += 16 + usize::try_from(u32::from_le_bytes(length.try_into().expect("four bytes"))).expect("a short frame");
        count += 1;
    }
    assert_eq!(at, file.len());
    count
}

/// Sends datagrams from one host to port 7000 of another, and returns what arrived.
fn send(from: &Host, to: &Host, datagrams: &[&[u8]]) -> Vec<Vec<u8>> {
    const MARK: &[u8] = b"a mark";
    let address = SocketAddr::new(to.ipv4().expect("an address"), 7000);
    let receiver = to
        .within(|| UdpSocket::bind(address))
        .expect("entered")
        .expect("a socket");
    let sender = from
        .within(|| UdpSocket::bind(("0.0.0.0", 0)))
        .expect("entered")
        .expect("a socket");
    receiver
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("set");
    let (marks, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let received = scope.spawn(|| {
            let mut received = Vec::new();
            let mut buffer = [0; 2048];
            // What was sent before the last mark may come after it, but not after nothing has come for a while.
            loop {
                match receiver.recv(&mut buffer) {
                    Ok(length) if &buffer[..length] == MARK => {
                        marks.fetch_add(1, Ordering::AcqRel);
                    }
                    Ok(length) => received.push(buffer[..length].to_vec()),
                    Err(_) if ended.load(Ordering::Acquire) => return received,
                    Err(_) => {}
                }
            }
        });
        // The receiver's kernel has room for some hundreds, so it must have taken these before the next are sent.
        let marked = datagrams.chunks(100).try_for_each(|chunk| {
            for datagram in chunk {
                sender.send_to(datagram, address).expect("sent");
            }
            let before = marks.load(Ordering::Acquire);
            retry("the mark behind the datagrams", DEADLINE, || {
                sender.send_to(MARK, address).expect("sent");
                if marks.load(Ordering::Acquire) > before {
                    Ok(())
                } else {
                    Err("no mark has come")
                }
            })
        });
        ended.store(true, Ordering::Release);
        marked.expect("the mark arrives");
        received.join().expect("the receiver ended")
    })
}

fn send_numbered(from: &Host, to: &Host, count: u32) -> Vec<u32> {
    let datagrams: Vec<[u8; 4]> = (0..count).map(u32::to_be_bytes).collect();
    let datagrams: Vec<&[u8]> = datagrams.iter().map(<[u8; 4]>::as_slice).collect();
    let received = send(from, to, &datagrams);
    received
        .iter()
        .map(|bytes| u32::from_be_bytes(bytes[..].try_into().expect("four bytes")))
        .collect()
}
