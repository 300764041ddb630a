//! Lockdown, judged by a neighbour on the same wire.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use coterie_io::capture::FrameSender;
use coterie_io::link::{Links, MAIN_TABLE, Protocol, Route, RouteKind};
use coterie_io::lockdown::{Allow, Gap, Layer, Lockdown, Routing, Who};
use coterie_io::tcp;
use coterie_io::tun::{PacketBatch, Tun};
use coterie_io::udp::{RecvBatch, SendBatch, UdpOptions, UdpPort};
use rustix::net::{AddressFamily, SocketType, ipproto, sendto};

use crate::locked::{LOCKED, MARK, NEIGHBOUR, PORT, Wire, address, bound, lockdown, own_port, send, unspecified};
use crate::namespace::{LONG, inside, may_open_tun, namespace, readable, say, with_namespaces};
use crate::wire::{is_resolution, is_udp, udp_frame};

/// Everything that an ordinary program tries, with what it is told and how long that took.
fn try_everything(hosts: [&str; 2]) -> Vec<(String, Result<(), ErrorKind>, Duration)> {
    let mut tries = Vec::new();
    let mut attempt = |what: String, act: &dyn Fn() -> io::Result<()>| {
        let started = Instant::now();
        let result = act().map_err(|error| error.kind());
        tries.push((what, result, started.elapsed()));
    };
    for host in hosts {
        attempt(format!("tcp {host}"), &|| {
            TcpStream::connect_timeout(&address(host, 80), Duration::from_secs(3)).map(drop)
        });
        for from in [0, PORT, 68] {
            attempt(format!("udp {host} from {from}"), &|| {
                let socket = UdpSocket::bind(address(unspecified(host), from))?;
                socket.send_to(b"clear text", address(host, 67)).map(drop)
            });
        }
    }
    tries
}

fn assert_told_at_once(tries: &[(String, Result<(), ErrorKind>, Duration)], kinds: &[ErrorKind]) {
    for (what, result, took) in tries {
        match result {
            Err(kind) => assert!(kinds.contains(kind), "{what} was told {kind:?}"),
            Ok(()) => panic!("{what} was told that it worked"),
        }
        assert!(*took < Duration::from_millis(500), "{what} was told after {took:?}");
    }
}

#[test]
fn nothing_in_clear_text_leaves_and_our_own_datagrams_do() {
    with_namespaces(
        module_path!(),
        "nothing_in_clear_text_leaves_and_our_own_datagrams_do",
        || {
            for rp_filter in [0, 1, 2] {
                let wire = Wire::new(rp_filter);
                let installed = inside(&wire.locked, || lockdown().install().expect("installed"));
                assert!(installed.egress && installed.absent.is_empty(), "{installed:?}");
                let port = inside(&wire.locked, own_port);
                let mut capture = wire.capture();
                let mut tries = Vec::new();
                inside(&wire.locked, || {
                    assert_eq!(lockdown().check().expect("checked"), []);
                    // Our own port is taken, so what an ordinary program tries from it fails before it sends.
                    tries = try_everything(NEIGHBOUR);
                });
                assert_told_at_once(&tries, &[ErrorKind::PermissionDenied, ErrorKind::AddrInUse]);
                inside(&wire.locked, || {
                    send_without_a_route();
                    forge_frames(&wire);
                });
                wire.assert_dark(&mut capture, &port);

                // Both ways, both families, with addresses that have to be resolved first.
                let theirs = inside(&wire.neighbour, || NEIGHBOUR.map(|ip| bound(ip, PORT)));
                let mut batch = RecvBatch::new(32, RecvBatch::SLOT);
                for ((socket, locked), neighbour) in theirs.iter().zip(LOCKED).zip(NEIGHBOUR) {
                    assert_eq!(send(&port, "out", address(neighbour, PORT)), 1);
                    let mut bytes = [0; 16];
                    let (length, from) = socket.recv_from(&mut bytes).expect("received");
                    assert_eq!((&bytes[..length], from), (&b"out"[..], address(locked, PORT)));
                    socket.send_to(b"in", address(locked, PORT)).expect("sent");
                    assert!(
                        readable(&port, LONG),
                        "nothing came in over {locked} with rp_filter {rp_filter}"
                    );
                    port.recv(&mut batch).expect("received");
                    let (from, bytes) = batch.datagrams_mut().next().expect("a datagram");
                    assert_eq!((&*bytes, from), (&b"in"[..], address(neighbour, PORT)));
                }
            }
        },
    );
}

/// Broadcast and multicast, which need no route.
fn send_without_a_route() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
    socket.set_broadcast(true).expect("allowed");
    for to in ["192.0.2.255:9", "255.255.255.255:9", "224.0.0.251:5353"] {
        let error = socket.send_to(b"clear text", to).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{to}");
    }
    let index = Links::open().expect("netlink").index("out0").expect("there");
    let socket = UdpSocket::bind("[::]:0").expect("bound");
    for group in ["ff02::fb", "ff05::1"] {
        let to = std::net::SocketAddrV6::new(group.parse().expect("a literal"), 5_353, 0, index);
        let error = socket.send_to(b"clear text", to).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{to}");
    }
}

/// Frames by a packet socket, past the IP stack.
fn forge_frames(wire: &Wire) {
    let sender = FrameSender::open("out0").expect("a packet socket");
    let (to, from) = (&wire.neighbour_hardware, &wire.locked_hardware);
    let header = [&to[..], &from[..]].concat();
    let mut frames = Vec::new();
    for (locked, neighbour) in LOCKED.into_iter().zip(NEIGHBOUR) {
        for (source, destination) in [(4_000, 53), (PORT, PORT), (68, 67), (546, 547)] {
            frames.push(udp_frame(
                to,
                from,
                address(locked, source),
                address(neighbour, destination),
                b"clear text",
            ));
        }
    }
    for ethertype in [0x88b5_u16, 0x8100, 0x8863, 0x0600] {
        frames.push([&header[..], &ethertype.to_be_bytes(), &[0; 50]].concat());
    }
    for frame in frames {
        let error = sender.send(&frame).expect_err("a forged frame was taken");
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
    }
}

#[test]
fn strangers_meet_silence() {
    with_namespaces(module_path!(), "strangers_meet_silence", || {
        let wire = Wire::new(1);
        let listener = inside(&wire.locked, || TcpListener::bind("[::]:22").expect("listening"));
        // An open machine answers: what follows can fail.
        inside(&wire.neighbour, || {
            for ip in LOCKED {
                TcpStream::connect_timeout(&address(ip, 22), LONG).expect("an open machine accepts");
                let refused = TcpStream::connect_timeout(&address(ip, 23), LONG).expect_err("a closed port");
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            }
        });
        inside(&wire.locked, || lockdown().install().expect("installed").egress);
        let port = inside(&wire.locked, own_port);
        let mut capture = wire.capture();
        inside(&wire.neighbour, || {
            let knocks = std::thread::spawn(|| {
                for ip in LOCKED {
                    for port in [22, 23] {
                        let limit = Duration::from_millis(1_200);
                        let error = TcpStream::connect_timeout(&address(ip, port), limit).expect_err("an answer");
                        assert_eq!(error.kind(), ErrorKind::TimedOut, "{ip}:{port}");
                    }
                }
            });
            for ip in LOCKED {
                let socket = bound(unspecified(ip), 0);
                for port in [1, 67, 68, 546, 53, 65_535] {
                    socket.send_to(b"anybody there?", address(ip, port)).expect("sent");
                }
                ping(ip);
            }
            knocks.join().expect("nobody answered");
        });
        wire.assert_dark(&mut capture, &port);
        let counters = inside(&wire.locked, || lockdown().counters().expect("read"));
        let dropped = counters
            .iter()
            .find(|counter| counter.rule == "drop-in")
            .expect("there");
        // Twelve datagrams, two pings, and for each of four connects at least a SYN.
        assert!(dropped.packets >= 18 && dropped.bytes > 18 * 28, "{counters:?}");
        drop(listener);
    });
}

/// Sends an echo request, which an open machine answers.
fn ping(ip: &str) {
    let (family, protocol, request) = match ip.parse().expect("a literal") {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, [8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, [128, 0, 0, 0, 0, 0, 0, 0]),
    };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(protocol)).expect("a raw socket");
    sendto(&socket, &request, rustix::net::SendFlags::empty(), &address(ip, 0)).expect("sent");
}

#[test]
fn an_unprivileged_program_is_told_at_once_whichever_layer_is_left() {
    with_namespaces(
        module_path!(),
        "an_unprivileged_program_is_told_at_once_whichever_layer_is_left",
        || {
            let denied = [ErrorKind::PermissionDenied];
            // A reset is what nftables tells TCP.
            let denied_or_reset = [ErrorKind::PermissionDenied, ErrorKind::ConnectionRefused];
            let other_table = Lockdown {
                table_name: "other".into(),
                ..lockdown()
            };
            let other_priority = Lockdown {
                routing: Routing {
                    priority: 6_000,
                    ..lockdown().routing
                },
                ..lockdown()
            };
            let layers: [(Option<&Lockdown>, &[ErrorKind], &[Layer]); 3] = [
                (None, &denied, &[]),
                (Some(&other_table), &denied_or_reset, &[Layer::Routing]),
                (Some(&other_priority), &denied, &[Layer::Firewall, Layer::Device]),
            ];
            for (removes, told, missing) in layers {
                let wire = Wire::new(1);
                let gaps = inside(&wire.locked, || {
                    assert!(lockdown().install().expect("installed").egress);
                    // What removes tables of this name, and rules of another priority, leaves our rules; and the reverse.
                    if let Some(removes) = removes {
                        removes.remove().expect("removed");
                    }
                    lockdown().check().expect("checked")
                });
                let mut found: Vec<Layer> = gaps.iter().map(|gap| gap.layer).collect();
                found.dedup();
                assert_eq!(found, missing, "{gaps:?}");

                let mut capture = wire.capture();
                let tries = inside(&wire.locked, || {
                    if let Err(error) = become_nobody() {
                        say(&format!("as root, since this namespace has no other user: {error}"));
                    } else {
                        let marked = UdpOptions {
                            mark: Some(MARK),
                            ..UdpOptions::default()
                        };
                        let error = UdpPort::bind(address("0.0.0.0", 0), &marked).expect_err("nobody set a mark");
                        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                    }
                    try_everything(NEIGHBOUR)
                });
                assert_told_at_once(&tries, told);
                let port = inside(&wire.locked, own_port);
                wire.assert_dark(&mut capture, &port);
            }
        },
    );
}

/// Gives up all privileges of the calling thread alone.
#[expect(unsafe_code, reason = "the C library's function would change all threads")]
fn become_nobody() -> io::Result<()> {
    const NOBODY: i64 = 65_534;
    // SAFETY: the call takes three numbers, and changes the credentials of this thread only.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[test]
fn without_the_firewall_a_stranger_gets_no_answer_by_a_route() {
    with_namespaces(
        module_path!(),
        "without_the_firewall_a_stranger_gets_no_answer_by_a_route",
        || {
            // The reverse-path filter would stop the stranger's packets before they could be answered.
            let wire = Wire::new(0);
            inside(&wire.locked, || {
                assert!(lockdown().install().expect("installed").egress);
                Lockdown {
                    routing: Routing {
                        priority: 6_000,
                        ..lockdown().routing
                    },
                    ..lockdown()
                }
                .remove()
                .expect("removed");
            });
            let listener = inside(&wire.locked, || TcpListener::bind("[::]:22").expect("listening"));
            let port = inside(&wire.locked, own_port);
            let mut capture = wire.capture();
            inside(&wire.neighbour, || {
                for ip in LOCKED {
                    for port in [22, 23] {
                        let limit = Duration::from_millis(300);
                        TcpStream::connect_timeout(&address(ip, port), limit).expect_err("an answer");
                    }
                    bound(unspecified(ip), 0)
                        .send_to(b"anybody there?", address(ip, 1))
                        .expect("sent");
                    ping(ip);
                }
            });
            let sent = wire.sent(&mut capture, &port);
            // The kernel's own reports of multicast groups need no route; the firewall is what keeps them in.
            let bright: Vec<&String> = sent
                .iter()
                .filter(|kind| !is_resolution(kind) && *kind != "ip6 next 0")
                .collect();
            assert!(bright.is_empty(), "on the wire: {bright:?}");
            drop(listener);
        },
    );
}

#[test]
fn allowed_remotes_are_reached_and_nothing_beside_them() {
    with_namespaces(
        module_path!(),
        "allowed_remotes_are_reached_and_nothing_beside_them",
        || {
            let wire = Wire::new(1);
            let allow = |protocol, port: u16| {
                NEIGHBOUR.map(|ip| Allow {
                    who: Who::Everybody,
                    interface: "out0".into(),
                    protocol,
                    remote: address(ip, port),
                })
            };
            let lockdown = Lockdown {
                allow: [allow(Protocol::Tcp, 8_080), allow(Protocol::Udp, 123)].concat(),
                ..lockdown()
            };
            inside(&wire.locked, || {
                assert!(lockdown.install().expect("installed").egress);
                assert_eq!(lockdown.check().expect("checked"), []);
            });
            let listeners = inside(&wire.neighbour, || {
                [8_080, 8_081].map(|port| TcpListener::bind(address("::", port)).expect("listening"))
            });
            let clocks = inside(&wire.neighbour, || NEIGHBOUR.map(|ip| bound(ip, 123)));
            inside(&wire.locked, || {
                for (ip, clock) in NEIGHBOUR.into_iter().zip(&clocks) {
                    let mut stream = TcpStream::connect_timeout(&address(ip, 8_080), LONG).expect("allowed");
                    let (mut other, _) = listeners[0].accept().expect("accepted");
                    stream.write_all(b"question").expect("written");
                    let mut bytes = [0; 8];
                    other.read_exact(&mut bytes).expect("read");
                    other.write_all(b"solution").expect("written");
                    stream.read_exact(&mut bytes).expect("read");
                    assert_eq!(&bytes, b"solution");
                    let error = TcpStream::connect_timeout(&address(ip, 8_081), LONG).expect_err("another port");
                    assert_eq!(error.kind(), ErrorKind::PermissionDenied);

                    let socket = bound(unspecified(ip), 0);
                    socket.send_to(b"time?", address(ip, 123)).expect("sent");
                    let (_, from) = clock.recv_from(&mut bytes).expect("received");
                    clock.send_to(b"now", from).expect("sent");
                    assert_eq!(socket.recv(&mut bytes).expect("received"), 3);
                }
            });
            // From an allowed address and port, but not in answer to anything.
            let closed = inside(&wire.locked, || UdpSocket::bind("[::]:9").expect("bound"));
            closed.set_nonblocking(true).expect("set");
            let port = inside(&wire.locked, own_port);
            let mut capture = wire.capture();
            for (ip, clock) in LOCKED.into_iter().zip(&clocks) {
                clock.send_to(b"unasked", address(ip, 9)).expect("sent");
            }
            wire.assert_dark(&mut capture, &port);
            assert_eq!(
                closed.recv(&mut [0; 16]).expect_err("unasked").kind(),
                ErrorKind::WouldBlock
            );
        },
    );
}

/// Connects a socket of ours, which is not blocking.
fn connect_marked(to: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = tcp::socket(to, mark)?;
    match rustix::net::connect(&socket, &to) {
        Err(error) if error != rustix::io::Errno::INPROGRESS => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let mut poller = coterie_io::poll::Poller::new()?;
    poller.add(&socket, 1, coterie_io::poll::Interest::Write)?;
    poller.wait(Some(LONG))?;
    let stream = TcpStream::from(socket);
    match stream.take_error()? {
        Some(error) => Err(error),
        None => stream.peer_addr().map(|_| stream),
    }
}

#[test]
fn a_remote_that_is_ours_alone_is_reached_by_our_sockets_alone() {
    with_namespaces(
        module_path!(),
        "a_remote_that_is_ours_alone_is_reached_by_our_sockets_alone",
        || {
            let wire = Wire::new(1);
            let allow = NEIGHBOUR.map(|ip| Allow {
                who: Who::Marked,
                interface: "out0".into(),
                protocol: Protocol::Tcp,
                remote: address(ip, 4_750),
            });
            let lockdown = Lockdown {
                allow: allow.into(),
                ..lockdown()
            };
            inside(&wire.locked, || {
                assert!(lockdown.install().expect("installed").egress);
                assert_eq!(lockdown.check().expect("checked"), []);
            });
            let listeners = inside(&wire.neighbour, || {
                [4_750, 4_751].map(|port| TcpListener::bind(address("::", port)).expect("listening"))
            });
            inside(&wire.locked, || {
                for ip in NEIGHBOUR {
                    let mut stream = connect_marked(address(ip, 4_750), Some(MARK)).expect("ours");
                    let (mut other, _) = listeners[0].accept().expect("accepted");
                    stream.write_all(b"question").expect("written");
                    let mut bytes = [0; 8];
                    other.read_exact(&mut bytes).expect("read");
                    assert_eq!(&bytes, b"question");
                    for (port, mark) in [(4_750, None), (4_751, Some(MARK))] {
                        let started = Instant::now();
                        assert!(connect_marked(address(ip, port), mark).is_err(), "{ip} {port} {mark:?}");
                        assert!(started.elapsed() < Duration::from_millis(500), "told at once");
                    }
                }
            });
        },
    );
}

#[test]
fn dhcp_works_when_asked_for() {
    with_namespaces(module_path!(), "dhcp_works_when_asked_for", || {
        let wire = Wire::new(1);
        let lockdown = Lockdown {
            dhcp: true,
            ..lockdown()
        };
        inside(&wire.locked, || {
            assert!(lockdown.install().expect("installed").egress);
            assert_eq!(lockdown.check().expect("checked"), []);
        });
        let port = inside(&wire.locked, own_port);
        for (ports, (locked, neighbour)) in [(68, 67), (546, 547)]
            .into_iter()
            .zip(LOCKED.into_iter().zip(NEIGHBOUR))
        {
            let (client, server) = ports;
            let mut capture = wire.capture();
            let there = inside(&wire.neighbour, || bound(neighbour, server));
            let here = inside(&wire.locked, || {
                let socket = bound(unspecified(locked), client);
                socket.send_to(b"discover", address(neighbour, server)).expect("sent");
                let sender = FrameSender::open("out0").expect("a packet socket");
                let (to, from) = (&wire.neighbour_hardware, &wire.locked_hardware);
                let frame = udp_frame(to, from, address(locked, client), address(neighbour, server), b"raw");
                sender.send(&frame).expect("a client may use a packet socket");
                socket
            });
            let mut bytes = [0; 16];
            assert_eq!(there.recv(&mut bytes).expect("received"), 8);
            there.send_to(b"offer", address(locked, client)).expect("sent");
            assert_eq!(here.recv(&mut bytes).expect("received"), 5);
            let sent = wire.sent(&mut capture, &port);
            let clear: Vec<&String> = sent.iter().filter(|kind| !is_resolution(kind)).collect();
            let version = if locked.contains(':') { 6 } else { 4 };
            assert_eq!(
                clear,
                [&format!("udp{version} {client}>{server}"); 2],
                "on the wire: {sent:?}"
            );
        }
    });
}

#[test]
fn the_inside_stays_usable_and_never_falls_back_to_the_outside() {
    with_namespaces(
        module_path!(),
        "the_inside_stays_usable_and_never_falls_back_to_the_outside",
        || {
            if !may_open_tun() {
                return;
            }
            let wire = Wire::new(2);
            let mut tun = inside(&wire.locked, || {
                assert!(lockdown().install().expect("installed").egress);
                let tun = Tun::create("inside0").expect("a TUN");
                let mut links = Links::open().expect("netlink");
                links.without_link_local("inside0").expect("set");
                links
                    .add_address("inside0", "10.9.0.1/24".parse().expect("a literal"))
                    .expect("given");
                links
                    .add_address("inside0", "fd09::1/64".parse().expect("a literal"))
                    .expect("given");
                links.set_up("inside0").expect("up");
                let route = Route {
                    destination: "10.10.0.0/16".parse().expect("a literal"),
                    kind: RouteKind::Unicast,
                    device: Some("inside0".into()),
                    via: None,
                    table: 77,
                    metric: None,
                };
                links.add_route(&route).expect("added");
                tun
            });
            let port = inside(&wire.locked, own_port);
            let mut capture = wire.capture();
            let destinations = ["10.9.0.2", "fd09::2", "10.10.1.1"];
            let client = inside(&wire.locked, || UdpSocket::bind("[::]:0").expect("bound"));
            let mapped = |ip: &str| match ip.parse().expect("a literal") {
                IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), 9),
                IpAddr::V6(ip) => SocketAddr::new(ip.into(), 9),
            };
            let mut batch = PacketBatch::new(1_500);
            for ip in destinations {
                client.send_to(b"inside", mapped(ip)).expect("the inside is usable");
                // The kernel's own multicast reports may come before it.
                let mut came = false;
                while !came {
                    assert!(readable(&tun, LONG), "nothing for {ip} came inside");
                    tun.recv(&mut batch).expect("received");
                    came = batch.packets_mut().any(|packet| is_udp(packet.bytes()));
                }
            }
            // What comes in by the TUN passes the reverse-path filter.
            let server = inside(&wire.locked, || bound("10.9.0.1", 9));
            let frame = udp_frame(
                &[0; 6],
                &[0; 6],
                address("10.9.0.2", 5),
                address("10.9.0.1", 9),
                b"from inside",
            );
            tun.send(&frame[14..]).expect("sent");
            let mut bytes = [0; 32];
            assert_eq!(server.recv(&mut bytes).expect("received"), 11);

            // Ours never goes inside, not even where the inside has the only route.
            inside(&wire.locked, || {
                let mut links = Links::open().expect("netlink");
                for route in links.routes(MAIN_TABLE).expect("listed") {
                    if route.destination.prefix_len() == 0 {
                        links.del_route(&route).expect("removed");
                    }
                }
            });
            let mut unroutable = SendBatch::new(100);
            unroutable.reserve(address("10.10.1.1", 9), 4).expect("room").commit();
            let outcome = port.send(&mut unroutable);
            assert_eq!((outcome.sent, outcome.failed.unreachable), (0, 1));

            drop(tun);
            for ip in destinations {
                let error = client.send_to(b"inside", mapped(ip)).expect_err("the inside is gone");
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{ip}");
            }
            wire.assert_dark(&mut capture, &port);
        },
    );
}

/// What is missing, in words.
fn told(lockdown: &Lockdown) -> Vec<String> {
    let gaps = lockdown.check().expect("checked");
    gaps.iter().map(ToString::to_string).collect()
}

#[test]
fn a_check_names_exactly_what_is_missing() {
    with_namespaces(module_path!(), "a_check_names_exactly_what_is_missing", || {
        let wire = Wire::new(0);
        inside(&wire.locked, || {
            let lockdown = Lockdown {
                dhcp: true,
                allow: vec![Allow {
                    who: Who::Everybody,
                    interface: "out0".into(),
                    protocol: Protocol::Tcp,
                    remote: address(NEIGHBOUR[0], 80),
                }],
                ..lockdown()
            };
            let never = lockdown.check().expect("checked");
            assert!(
                never.contains(&Gap {
                    layer: Layer::Firewall,
                    what: "no chain outside-out".into()
                }),
                "{never:?}"
            );
            assert!(never.iter().any(|gap| gap.layer == Layer::Routing));
            assert!(lockdown.install().expect("installed").egress);
            assert!(lockdown.install().expect("installed again").egress);
            assert_eq!(lockdown.check().expect("checked"), []);

            // Somebody allows something else.
            let other = Lockdown {
                allow: Vec::new(),
                ..lockdown.clone()
            };
            assert!(other.install().expect("installed").egress);
            let gaps = told(&lockdown);
            assert!(
                gaps.contains(&"firewall: chain outside-out has reject-tcp where allow belongs".into()),
                "{gaps:?}"
            );
            assert!(
                gaps.contains(&"device: chain outside-egress has no drop-egress".into()),
                "{gaps:?}"
            );
            let rule = "routing: no rule IPv4 5004: from all to 192.0.2.2/32 ipproto tcp dport 80 lookup 254";
            assert!(gaps.contains(&rule.into()), "{gaps:?}");
            assert!(lockdown.install().expect("installed").egress);
            assert_eq!(lockdown.check().expect("checked"), []);

            // Somebody takes a rule, and switches a setting off.
            let mut links = Links::open().expect("netlink");
            let rules = links.rules(coterie_io::link::Family::V6).expect("listed");
            links
                .del_rule(rules.iter().find(|rule| rule.priority == 5_006).expect("there"))
                .expect("removed");
            std::fs::write("/proc/sys/net/ipv4/conf/out0/src_valid_mark", "0").expect("set");
            let gaps = told(&lockdown);
            let rule = format!("routing: no rule IPv6 5006: not from all fwmark {MARK:#x}/0xffffffff prohibit");
            assert_eq!(gaps, ["device: src_valid_mark of out0 is off".to_owned(), rule]);

            // The interface goes and comes again: layer 1 waits for it.
            links.delete("out0").expect("removed");
            links.add_veth("out0", "n1").expect("a pair");
            let gaps = lockdown.check().expect("checked");
            let device = gaps.iter().filter(|gap| gap.layer == Layer::Device);
            let names: Vec<&str> = device.map(|gap| gap.what.as_str()).collect();
            let setting = "src_valid_mark of out0 is off";
            if names == [setting] {
                // Linux 6.16 and later hook a returning interface by themselves.
                links.set_up("n1").expect("up");
                links.set_up("out0").expect("up");
                let frame = [&[0xff; 12][..], &[0x88, 0xb5], &[0; 50]].concat();
                let sender = FrameSender::open("out0").expect("a packet socket");
                let error = sender.send(&frame).expect_err("hooked");
                assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
            } else {
                assert_eq!(names, ["no chain ingress-out0", "no chain egress-out0", setting]);
            }
            assert!(gaps.iter().all(|gap| gap.layer != Layer::Firewall), "{gaps:?}");
            assert!(lockdown.install().expect("installed").egress);
            assert_eq!(lockdown.check().expect("checked"), []);

            lockdown.remove().expect("removed");
            lockdown.remove().expect("removed again");
            let all = never
                .into_iter()
                .filter(|gap| !gap.what.contains("src_valid_mark"))
                .collect::<Vec<_>>();
            assert_eq!(
                lockdown.check().expect("checked"),
                all,
                "all is gone but the setting, which does nothing alone"
            );
            assert_eq!(lockdown.counters().expect("read"), []);
        });
    });
}

#[test]
fn an_absent_interface_is_dark_when_it_comes() {
    with_namespaces(module_path!(), "an_absent_interface_is_dark_when_it_comes", || {
        inside(&namespace(), || {
            let lockdown = Lockdown {
                routing: Routing {
                    priority: 1,
                    ..Routing::default()
                },
                ..lockdown()
            };
            let installed = lockdown.install().expect("installed");
            assert_eq!(installed.absent, ["out0"]);
            // The routing layer out of the way, so that the firewall has to show that it is there.
            Lockdown {
                table_name: "other".into(),
                ..lockdown.clone()
            }
            .remove()
            .expect("removed");
            let mut links = Links::open().expect("netlink");
            links.add_veth("out0", "n0").expect("a pair");
            links.set_up("n0").expect("up");
            links.set_up("out0").expect("up");
            links
                .add_address("out0", "192.0.2.1/24".parse().expect("a literal"))
                .expect("given");
            let socket = UdpSocket::bind("192.0.2.1:0").expect("bound");
            let error = socket.send_to(b"clear text", "192.0.2.2:9").expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            let counters = lockdown.counters().expect("read");
            assert!(
                counters
                    .iter()
                    .any(|counter| counter.rule == "reject" && counter.packets >= 1),
                "{counters:?}"
            );
        });
    });
}

#[test]
fn removing_opens_the_machine_again() {
    with_namespaces(module_path!(), "removing_opens_the_machine_again", || {
        let wire = Wire::new(1);
        let listener = inside(&wire.neighbour, || TcpListener::bind("[::]:80").expect("listening"));
        inside(&wire.locked, || {
            assert!(lockdown().install().expect("installed").egress);
            let counters = lockdown().counters().expect("read");
            let names: Vec<&str> = counters.iter().map(|counter| counter.rule.as_str()).collect();
            assert_eq!(
                names,
                ["reject-tcp", "reject", "drop-in", "drop-forward", "drop-egress"]
            );
            TcpStream::connect_timeout(&address(NEIGHBOUR[0], 80), LONG).expect_err("locked");
            lockdown().remove().expect("removed");
            for ip in NEIGHBOUR {
                TcpStream::connect_timeout(&address(ip, 80), LONG).expect("open again");
            }
        });
        drop(listener);
    });
}

#[test]
fn values_that_make_no_sense_are_refused() {
    with_namespaces(module_path!(), "values_that_make_no_sense_are_refused", || {
        let bad = [
            Lockdown {
                table_name: "two words".into(),
                ..lockdown()
            },
            Lockdown {
                outside: Vec::new(),
                ..lockdown()
            },
            Lockdown {
                outside: vec!["../../x".into()],
                ..lockdown()
            },
            Lockdown { mark: 0, ..lockdown() },
            Lockdown { port: 0, ..lockdown() },
            Lockdown {
                routing: Routing {
                    priority: 0,
                    ..Routing::default()
                },
                ..lockdown()
            },
            Lockdown {
                routing: Routing {
                    priority: 32_766,
                    ..Routing::default()
                },
                ..lockdown()
            },
            Lockdown {
                allow: vec![Allow {
                    who: Who::Everybody,
                    interface: "eth9".into(),
                    protocol: Protocol::Udp,
                    remote: address("192.0.2.1", 53),
                }],
                ..lockdown()
            },
        ];
        inside(&namespace(), || {
            for lockdown in bad {
                let error = lockdown.install().expect_err("no sense");
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            }
        });
    });
}
