//! A machine to be locked down, and its neighbour.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use coterie_io::capture::Capture;
use coterie_io::link::{Links, MAIN_TABLE, Route, RouteKind};
use coterie_io::lockdown::{Lockdown, Routing};
use coterie_io::netns::NetNs;
use coterie_io::udp::{SendBatch, UdpOptions, UdpPort};

use crate::namespace::{LONG, inside, namespace};
use crate::wire::{is_resolution, kinds_until};

pub(crate) const PORT: u16 = 7_077;
pub(crate) const MARK: u32 = 0x00c0_7e81;
pub(crate) const LOCKED: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const NEIGHBOUR: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// A machine to be locked, and a hostile neighbour that sees all that the machine sends.
pub(crate) struct Wire {
    pub(crate) locked: NetNs,
    pub(crate) locked_hardware: Vec<u8>,
    pub(crate) neighbour: NetNs,
    pub(crate) neighbour_hardware: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(rp_filter: u8) -> Self {
        let (locked, neighbour) = (namespace(), namespace());
        inside(&locked, || {
            let mut links = Links::open().expect("netlink");
            links.add_veth("out0", "n0").expect("a pair");
            links.move_to_netns("n0", &neighbour).expect("moved");
        });
        let configure = |namespace: &NetNs, name: &str, addresses: [&str; 2]| {
            inside(namespace, || {
                let mut links = Links::open().expect("netlink");
                for interface in [name, "all"] {
                    let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
                    std::fs::write(path, rp_filter.to_string()).expect("set");
                }
                links
                    .add_address(name, format!("{}/24", addresses[0]).parse().expect("a literal"))
                    .expect("given");
                links
                    .add_address(name, format!("{}/64", addresses[1]).parse().expect("a literal"))
                    .expect("given");
                links.set_up(name).expect("up");
                links.link(name).expect("there").hardware_address
            })
        };
        let locked_hardware = configure(&locked, "out0", LOCKED);
        let neighbour_hardware = configure(&neighbour, "n0", NEIGHBOUR);
        inside(&locked, || {
            let mut links = Links::open().expect("netlink");
            for (destination, via) in ["0.0.0.0/0", "::/0"].into_iter().zip(NEIGHBOUR) {
                let route = Route {
                    destination: destination.parse().expect("a literal"),
                    kind: RouteKind::Unicast,
                    device: Some("out0".into()),
                    via: Some(via.parse().expect("a literal")),
                    table: MAIN_TABLE,
                    metric: Some(10),
                };
                // The link needs a moment to come up on both sides before it has IPv6 routes.
                let deadline = Instant::now() + LONG;
                while let Err(error) = links.add_route(&route) {
                    assert!(Instant::now() < deadline, "{error}");
                    std::thread::yield_now();
                }
            }
        });
        Self {
            locked,
            locked_hardware,
            neighbour,
            neighbour_hardware,
        }
    }

    pub(crate) fn capture(&self) -> Capture {
        inside(&self.neighbour, || Capture::open("n0").expect("a capture"))
    }

    /// What the locked machine has sent since the capture was opened. The last thing that it sends is a datagram of ours,
    /// which shows that the capture works and that everything before it has come.
    pub(crate) fn sent(&self, capture: &mut Capture, port: &UdpPort) -> Vec<String> {
        let last = format!("the last datagram, {:?}", Instant::now());
        let outcome = send(port, &last, address(NEIGHBOUR[0], 9));
        assert_eq!(outcome, 1, "our own datagram was refused");
        kinds_until(capture, &self.locked_hardware, last.as_bytes(), LONG)
    }

    pub(crate) fn assert_dark(&self, capture: &mut Capture, port: &UdpPort) {
        let sent = self.sent(capture, port);
        let bright: Vec<&String> = sent.iter().filter(|kind| !is_resolution(kind)).collect();
        assert!(bright.is_empty(), "on the wire: {bright:?}");
    }
}

pub(crate) fn lockdown() -> Lockdown {
    Lockdown {
        table_name: "dark".into(),
        outside: vec!["out0".into()],
        port: PORT,
        mark: MARK,
        allow: Vec::new(),
        dhcp: false,
        routing: Routing {
            priority: 5_000,
            inside_table: Some(77),
            inside: vec![
                "10.9.0.0/16".parse().expect("a literal"),
                "fd09::/32".parse().expect("a literal"),
            ],
        },
    }
}

pub(crate) fn own_port() -> UdpPort {
    let options = UdpOptions {
        mark: Some(MARK),
        dont_fragment: true,
        ..UdpOptions::default()
    };
    UdpPort::bind(SocketAddr::new("::".parse().expect("a literal"), PORT), &options).expect("bound")
}

pub(crate) fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("a literal"), port)
}

pub(crate) fn send(port: &UdpPort, text: &str, to: SocketAddr) -> usize {
    let mut batch = SendBatch::new(2_048);
    let mut room = batch.reserve(to, text.len()).expect("room");
    room.copy_from_slice(text.as_bytes());
    room.commit();
    port.send(&mut batch).sent
}

pub(crate) fn bound(ip: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(address(ip, port)).expect("bound");
    socket.set_read_timeout(Some(LONG)).expect("timeout");
    socket
}

pub(crate) fn unspecified(ip: &str) -> &'static str {
    if ip.contains(':') { "::" } else { "0.0.0.0" }
}
