//! Packets through TUN devices and UDP ports, on real kernel interfaces.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use coterie_io::link::Links;
use coterie_io::netns::NetNs;
use coterie_io::tun::{BATCH, PacketBatch, Tun};
use coterie_io::udp::{Failures, RecvBatch, SendBatch, UdpOptions, UdpPort};

use crate::namespace::{LONG, inside, may_open_tun, namespace, readable, with_namespaces};
use crate::wire::is_udp;

fn tun(namespace: &NetNs, addresses: &[&str]) -> Tun {
    inside(namespace, || {
        let tun = Tun::create("inside0").expect("a TUN");
        let mut links = Links::open().expect("netlink");
        links.without_link_local("inside0").expect("no address of its own");
        links.set_mtu("inside0", 1_400).expect("MTU");
        for address in addresses {
            links
                .add_address("inside0", address.parse().expect("a literal"))
                .expect("address");
        }
        links.set_up("inside0").expect("up");
        tun
    })
}

/// Carries packets from one TUN to the other until `count` of UDP have gone over. The kernel sends reports of IPv6
/// multicast groups besides, when it likes.
fn carry(from: &mut Tun, to: &mut Tun, count: usize) -> usize {
    let mut batch = PacketBatch::new(1_400);
    let mut carried = 0;
    while carried < count {
        assert!(readable(&*from, LONG), "{carried} of {count} packets came");
        from.recv(&mut batch).expect("received");
        for packet in batch.packets_mut() {
            assert_eq!(packet.segment_size(), 0);
            to.send(packet.bytes()).expect("sent");
            carried += usize::from(is_udp(packet.bytes()));
        }
    }
    carried
}

#[test]
fn packets_go_from_tun_to_tun_and_back() {
    with_namespaces(module_path!(), "packets_go_from_tun_to_tun_and_back", || {
        if !may_open_tun() {
            return;
        }
        let (here, there) = (namespace(), namespace());
        let mut tun_here = tun(&here, &["10.9.0.1/24", "fd00:9::1/64"]);
        let mut tun_there = tun(&there, &["10.9.0.2/24", "fd00:9::2/64"]);
        assert_eq!(tun_here.name(), "inside0");
        for (from, to) in [
            ("10.9.0.1:5000", "10.9.0.2:5000"),
            ("[fd00:9::1]:5000", "[fd00:9::2]:5000"),
        ] {
            let bind = |address: &str| {
                let socket = UdpSocket::bind(address).expect("an address is usable as soon as it is given");
                socket.set_read_timeout(Some(LONG)).expect("timeout");
                socket
            };
            let client = inside(&here, || bind(from));
            let server = inside(&there, || bind(to));
            // More than a batch, so that reading goes on after a full one.
            let count = BATCH + 10;
            for number in 0..count {
                client.send_to(&number.to_be_bytes(), to).expect("sent");
            }
            assert_eq!(carry(&mut tun_here, &mut tun_there, count), count);
            for number in 0..count {
                let mut bytes = [0; 8];
                let (_, peer) = server.recv_from(&mut bytes).expect("received");
                assert_eq!(
                    (usize::from_be_bytes(bytes), peer),
                    (number, from.parse().expect("a literal"))
                );
            }
            server.send_to(b"answer", from).expect("sent");
            carry(&mut tun_there, &mut tun_here, 1);
            let mut bytes = [0; 16];
            assert_eq!(client.recv(&mut bytes).expect("received"), 6);
        }
        let mut batch = PacketBatch::new(1_400);
        tun_here.recv(&mut batch).expect("received");
        assert!(
            batch.packets_mut().all(|packet| !is_udp(packet.bytes())),
            "a packet came twice"
        );
        assert_eq!(tun_here.oversized(), 0);
    });
}

#[test]
fn an_oversized_packet_is_counted_and_passed_over() {
    with_namespaces(module_path!(), "an_oversized_packet_is_counted_and_passed_over", || {
        if !may_open_tun() {
            return;
        }
        let here = namespace();
        let mut tun = tun(&here, &["10.9.0.1/24"]);
        let client = inside(&here, || UdpSocket::bind("10.9.0.1:0").expect("bound"));
        for size in [10, 1_000, 20] {
            client.send_to(&vec![7; size], "10.9.0.2:9").expect("sent");
        }
        let mut batch = PacketBatch::new(500);
        assert_eq!(tun.recv(&mut batch).expect("received"), 2);
        let sizes: Vec<usize> = batch.packets_mut().map(|packet| packet.bytes().len()).collect();
        assert_eq!((sizes, tun.oversized()), (vec![38, 48], 1));
    });
}

#[test]
fn a_second_tun_of_one_name_is_refused() {
    with_namespaces(module_path!(), "a_second_tun_of_one_name_is_refused", || {
        if !may_open_tun() {
            return;
        }
        inside(&namespace(), || {
            let first = Tun::create("inside0").expect("a TUN");
            let error = Tun::create("inside0").expect_err("taken");
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
            drop(first);
            Tun::create("inside0").expect("the name is free again");
        });
    });
}

#[test]
fn a_tun_that_is_down_says_so() {
    with_namespaces(module_path!(), "a_tun_that_is_down_says_so", || {
        if !may_open_tun() {
            return;
        }
        inside(&namespace(), || {
            let mut tun = Tun::create("inside0").expect("a TUN");
            let error = tun.send(&[0x45; 20]).expect_err("down");
            assert_eq!(error.raw_os_error(), Some(5), "{error}");
        });
    });
}

fn options() -> UdpOptions {
    UdpOptions {
        recv_buffer: 1 << 20,
        dont_fragment: true,
        ..UdpOptions::default()
    }
}

fn fill(batch: &mut SendBatch, to: SocketAddr, sizes: impl IntoIterator<Item = usize>) {
    for (number, size) in sizes.into_iter().enumerate() {
        let mut room = batch.reserve(to, size).expect("room");
        room.fill(u8::try_from(number % 251).expect("below 251"));
        room.commit();
    }
}

/// Reads until `count` datagrams have come.
fn collect(port: &UdpPort, count: usize, slot: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut batch = RecvBatch::new(32, slot);
    let mut all = Vec::new();
    while all.len() < count {
        assert!(readable(port, LONG), "{} of {count} datagrams came", all.len());
        port.recv(&mut batch).expect("received");
        all.extend(batch.datagrams_mut().map(|(from, bytes)| (from, bytes.to_vec())));
    }
    all
}

#[test]
fn batches_arrive_whole_over_ipv4_and_ipv6_on_one_port() {
    with_namespaces(
        module_path!(),
        "batches_arrive_whole_over_ipv4_and_ipv6_on_one_port",
        || {
            inside(&namespace(), || {
                let receiver = UdpPort::bind("[::]:0".parse().expect("a literal"), &options()).expect("bound");
                let port = receiver.local_address().expect("bound").port();
                let v4 = UdpPort::bind("127.0.0.1:0".parse().expect("a literal"), &options()).expect("bound");
                let dual = UdpPort::bind("[::]:0".parse().expect("a literal"), &options()).expect("bound");
                for (sender, host) in [(&v4, "127.0.0.1"), (&dual, "127.0.0.1"), (&dual, "::1")] {
                    let to = SocketAddr::new(host.parse().expect("a literal"), port);
                    let mut batch = SendBatch::new(1 << 20);
                    let sizes: Vec<usize> = (0..100).map(|number| 1 + number * 14).collect();
                    fill(&mut batch, to, sizes.iter().copied());
                    let outcome = sender.send(&mut batch);
                    assert_eq!(
                        (outcome.sent, outcome.failed, outcome.unsent),
                        (100, Failures::default(), 0)
                    );
                    assert!(batch.is_empty() && batch.room() == 1 << 20);

                    let from_port = sender.local_address().expect("bound").port();
                    let from = SocketAddr::new(host.parse().expect("a literal"), from_port);
                    for (number, (peer, bytes)) in collect(&receiver, 100, RecvBatch::SLOT).into_iter().enumerate() {
                        let byte = u8::try_from(number).expect("below 100");
                        assert_eq!((peer, bytes), (from, vec![byte; sizes[number]]));
                    }
                }
                assert_eq!(receiver.recv(&mut RecvBatch::new(1, 100)).expect("nothing waits"), 0);
            });
        },
    );
}

#[test]
fn joined_datagrams_come_apart_again() {
    with_namespaces(module_path!(), "joined_datagrams_come_apart_again", || {
        inside(&namespace(), || {
            let receiver = UdpPort::bind(
                "[::1]:0".parse().expect("a literal"),
                &UdpOptions { gro: true, ..options() },
            );
            let receiver = receiver.expect("bound");
            let to = receiver.local_address().expect("bound");
            let sender = UdpSocket::bind("[::1]:0").expect("bound");
            let cut = 1_000_i32;
            cut_into(&sender, cut);
            sender.send_to(&[5; 4_500], to).expect("sent as five datagrams");
            let sizes: Vec<usize> = collect(&receiver, 5, RecvBatch::GRO_SLOT)
                .iter()
                .map(|(_, bytes)| bytes.len())
                .collect();
            assert_eq!(sizes, [1_000, 1_000, 1_000, 1_000, 500]);
        });
    });
}

/// Has the kernel cut what `socket` sends into datagrams of `size` bytes.
#[expect(unsafe_code, reason = "no safe wrapper sets this option")]
fn cut_into(socket: &UdpSocket, size: i32) {
    use std::os::fd::AsRawFd;
    // SAFETY: pointer and length are those of a live integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[test]
fn refused_datagrams_are_counted_and_do_not_stop_the_others() {
    with_namespaces(
        module_path!(),
        "refused_datagrams_are_counted_and_do_not_stop_the_others",
        || {
            inside(&namespace(), || {
                Links::open().expect("netlink").set_mtu("lo", 1_500).expect("MTU");
                let receiver = UdpPort::bind("127.0.0.1:0".parse().expect("a literal"), &options()).expect("bound");
                let to = receiver.local_address().expect("bound");
                let nowhere = "192.0.2.1:9".parse().expect("a literal");
                let sender = UdpPort::bind("[::]:0".parse().expect("a literal"), &options()).expect("bound");

                let mut batch = SendBatch::new(1 << 20);
                fill(&mut batch, to, [100, 9_000, 1_472]);
                fill(&mut batch, nowhere, [50]);
                fill(&mut batch, to, [1_473]);
                fill(&mut batch, to, (0..50).map(|_| 200));
                let outcome = sender.send(&mut batch);
                assert_eq!((outcome.sent, outcome.unsent), (52, 0));
                let expected = Failures {
                    too_large: 2,
                    unreachable: 1,
                    ..Failures::default()
                };
                assert_eq!((outcome.failed, outcome.failed.total()), (expected, 3));
                let sizes: Vec<usize> = collect(&receiver, 52, RecvBatch::SLOT)
                    .iter()
                    .map(|(_, bytes)| bytes.len())
                    .collect();
                assert_eq!((sizes[0], sizes[1], sizes[51]), (100, 1_472, 200));

                let only_v4 = UdpPort::bind("127.0.0.1:0".parse().expect("a literal"), &options()).expect("bound");
                fill(&mut batch, "[::1]:9".parse().expect("a literal"), [10]);
                fill(&mut batch, to, [11]);
                let outcome = only_v4.send(&mut batch);
                assert_eq!((outcome.sent, outcome.failed.unreachable), (1, 1));
                assert_eq!(collect(&receiver, 1, RecvBatch::SLOT)[0].1.len(), 11);
            });
        },
    );
}

#[test]
fn a_datagram_larger_than_a_slot_is_left_out_and_counted() {
    with_namespaces(
        module_path!(),
        "a_datagram_larger_than_a_slot_is_left_out_and_counted",
        || {
            inside(&namespace(), || {
                let receiver = UdpPort::bind("127.0.0.1:0".parse().expect("a literal"), &options()).expect("bound");
                let sender = UdpSocket::bind("127.0.0.1:0").expect("bound");
                for size in [100, 3_000, 200] {
                    sender
                        .send_to(&vec![1; size], receiver.local_address().expect("bound"))
                        .expect("sent");
                }
                let mut batch = RecvBatch::new(32, RecvBatch::SLOT);
                assert!(readable(&receiver, LONG));
                assert_eq!(receiver.recv(&mut batch).expect("received"), 3);
                let sizes: Vec<usize> = batch.datagrams_mut().map(|(_, bytes)| bytes.len()).collect();
                assert_eq!((sizes, batch.truncated()), (vec![100, 200], 1));
            });
        },
    );
}

#[test]
fn a_port_in_use_and_a_device_that_is_not_there_are_named() {
    with_namespaces(
        module_path!(),
        "a_port_in_use_and_a_device_that_is_not_there_are_named",
        || {
            inside(&namespace(), || {
                let first = UdpPort::bind("[::]:0".parse().expect("a literal"), &options()).expect("bound");
                let taken = first.local_address().expect("bound");
                let error = UdpPort::bind(taken, &options()).expect_err("taken");
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                assert!(error.to_string().contains(&taken.port().to_string()), "{error}");

                let device = UdpOptions {
                    device: Some("nowhere0".into()),
                    ..options()
                };
                let error =
                    UdpPort::bind("[::]:0".parse().expect("a literal"), &device).expect_err("no such interface");
                assert!(error.to_string().contains("nowhere0"), "{error}");
            });
        },
    );
}
