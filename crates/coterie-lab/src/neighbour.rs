//! A host of another tenant, on the same wire: he sees every frame, and sends what he likes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coterie_io::capture::FrameSender;

use crate::address::MacAddr;
use crate::capture::{Answers, Capture, CaptureOptions, CapturedFrame};
use crate::error::{LabError, Result};
use crate::fabric::Fabric;
use crate::frame::{ARP, Frame, ICMPV6, IPV4, IPV6, Network, TCP, UDP, complete_checksums};
use crate::host::{Host, OUTSIDE};
use crate::random::Random;

/// A hostile neighbour.
#[derive(Debug)]
pub struct Neighbour {
    host: Host,
    capture: Capture,
    fabric: Arc<Fabric>,
}

/// What is done to a frame before it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Nothing: a replay, from the address that it came from.
    None,
    /// One to four bits of the datagram's payload are flipped.
    Bits,
    /// The payload is cut short, or made longer by random bytes.
    Length,
    /// The payload goes out from another address and port: the neighbour's own if he has one of the family.
    Source,
}

/// What sending took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Datagrams or frames that the kernel took.
    pub sent: u64,
    /// Those that it refused.
    pub refused: u64,
    /// How long it took.
    pub took: Duration,
}

impl Neighbour {
    pub(crate) fn start(host: Host, fabric: Arc<Fabric>, options: CaptureOptions) -> Result<Self> {
        let capture = host.capture(OUTSIDE, options)?;
        Ok(Self { host, capture, fabric })
    }

    /// His machine, on which he may run any program.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// All that he sees, since he was added.
    #[must_use]
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// What has come back to him since he was added, other than ARP and neighbour discovery.
    #[must_use]
    pub fn answers(&self) -> Answers {
        self.capture.answers()
    }

    /// Sends datagrams of random bytes, each of a random length, from a socket of his.
    ///
    /// # Errors
    /// When he can have no socket.
    pub fn send_random(&self, to: SocketAddr, count: u64, lengths: RangeInclusive<usize>, seed: u64) -> Result<Spent> {
        let mut random = Random::seeded(seed);
        let mut datagram = vec![0; *lengths.end()];
        let spread = lengths.end().saturating_sub(*lengths.start()) + 1;
        self.send_datagrams(to, (0..count).map(|_| ()), |()| {
            let length = lengths.start() + random.below(spread);
            random.fill(&mut datagram[..length]);
            datagram[..length].to_vec()
        })
    }

    /// Sends given datagrams from a socket of his.
    ///
    /// # Errors
    /// When he can have no socket.
    pub fn send(&self, to: SocketAddr, datagrams: impl IntoIterator<Item = Vec<u8>, IntoIter: Send>) -> Result<Spent> {
        self.send_datagrams(to, datagrams.into_iter(), |datagram| datagram)
    }

    /// Sends UDP frames that he has seen again, `count` of them, drawn from those that `select` accepts.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] when he has seen none of them.
    pub fn replay(
        &self,
        select: impl Fn(&Frame<'_>) -> bool,
        mutation: Mutation,
        count: u64,
        seed: u64,
    ) -> Result<Spent> {
        let seen: Vec<CapturedFrame> = self
            .capture
            .frames()
            .into_iter()
            .filter(|frame| {
                frame
                    .parse()
                    .is_some_and(|frame| frame.kind().protocol == Some(UDP) && select(&frame))
            })
            .collect();
        if seen.is_empty() {
            return Err(LabError::Unavailable {
                what: "a replay".to_owned(),
                why: "the neighbour has seen no such datagram yet".to_owned(),
            });
        }
        let mut random = Random::seeded(seed);
        let frames = (0..count).map(|_| {
            let frame = &seen[random.below(seen.len())];
            self.mutate(&frame.bytes, mutation, &mut random)
        });
        self.send_frames(&frames.collect::<Vec<_>>())
    }

    /// Tells everybody that an address of somebody else is his: by ARP, or by neighbour advertisements.
    ///
    /// # Errors
    /// When he can send no frames.
    pub fn spoof(&self, victim: IpAddr, count: u64) -> Result<Spent> {
        let frame = match victim {
            IpAddr::V4(address) => gratuitous_arp(self.host.mac(), address),
            IpAddr::V6(address) => advertisement(self.host.mac(), address),
        };
        self.send_frames(&vec![frame; usize::try_from(count).unwrap_or(usize::MAX)])
    }

    /// Sends TCP connection requests, from an address of his, to each port.
    ///
    /// # Errors
    /// [`LabError::Unavailable`] when he has no address of the family.
    pub fn probe(&self, target: IpAddr, ports: impl IntoIterator<Item = u16>, seed: u64) -> Result<Spent> {
        let own = if target.is_ipv4() {
            self.host.ipv4()
        } else {
            self.host.ipv6()
        };
        let own = own.ok_or_else(|| LabError::Unavailable {
            what: format!("a probe of {target}"),
            why: "the neighbour has no address of that family".to_owned(),
        })?;
        let mut random = Random::seeded(seed);
        let frames: Vec<_> = ports
            .into_iter()
            .map(|port| {
                let mut segment = vec![0; 20];
                random.fill(&mut segment[..8]);
                segment[0] |= 0x80;
                segment[2..4].copy_from_slice(&port.to_be_bytes());
                segment[8..12].fill(0);
                // Five words of header; SYN; a window.
                segment[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
                self.frame(own, target, TCP, &segment)
            })
            .collect();
        self.send_frames(&frames)
    }

    /// Sends frames exactly as they are.
    ///
    /// # Errors
    /// When he can send no frames.
    pub fn send_frames(&self, frames: &[Vec<u8>]) -> Result<Spent> {
        self.host.within(|| {
            let sender = FrameSender::open(OUTSIDE).map_err(LabError::io("send frames"))?;
            let mut spent = Spent::default();
            let start = Instant::now();
            for frame in frames {
                match sender.send(frame) {
                    Ok(()) => spent.sent += 1,
                    Err(_) => spent.refused += 1,
                }
            }
            spent.took = start.elapsed();
            Ok(spent)
        })?
    }

    fn send_datagrams<T>(
        &self,
        to: SocketAddr,
        what: impl Iterator<Item = T> + Send,
        mut make: impl FnMut(T) -> Vec<u8> + Send,
    ) -> Result<Spent> {
        self.host.within(|| {
            let any: IpAddr = if to.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0)).map_err(LabError::io("open a socket"))?;
            let mut spent = Spent::default();
            let start = Instant::now();
            for item in what {
                match socket.send_to(&make(item), to) {
                    Ok(_) => spent.sent += 1,
                    Err(_) => spent.refused += 1,
                }
            }
            spent.took = start.elapsed();
            Ok(spent)
        })?
    }

    /// A frame that he has seen, changed, and with checksums that hold, so that no kernel drops it before its receiver
    /// has judged it.
    fn mutate(&self, bytes: &[u8], mutation: Mutation, random: &mut Random) -> Vec<u8> {
        let mut frame = bytes.to_vec();
        let Some(parsed) = Frame::parse(bytes) else {
            return frame;
        };
        let Network::Ip {
            source,
            destination,
            ports: Some((from_port, to_port)),
            ..
        } = parsed.network
        else {
            return frame;
        };
        let mut payload = parsed.payload.to_vec();
        let (mut from, mut port) = (source, from_port);
        match mutation {
            Mutation::None => {
                complete_checksums(&mut frame);
                return frame;
            }
            Mutation::Bits => {
                for _ in 0..=random.below(4) {
                    let at = random.below(payload.len());
                    if let Some(byte) = payload.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
            Mutation::Length => {
                let length = random.below(2 * payload.len() + 16).min(1400);
                let old = payload.len();
                payload.resize(length, 0);
                if length > old {
                    random.fill(&mut payload[old..]);
                }
            }
            Mutation::Source => {
                let own = if destination.is_ipv4() {
                    self.host.ipv4()
                } else {
                    self.host.ipv6()
                };
                from = own.unwrap_or(source);
                port = u16::try_from(1024 + random.below(60_000)).unwrap_or(1024);
            }
        }
        let mut datagram = Vec::with_capacity(8 + payload.len());
        datagram.extend(port.to_be_bytes());
        datagram.extend(to_port.to_be_bytes());
        datagram.extend(u16::try_from(8 + payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        // Not zero, which would mean that there is none to complete.
        datagram.extend([0xff, 0xff]);
        datagram.extend(payload);
        self.frame(from, destination, UDP, &datagram)
    }

    /// A frame with an IP packet, with its checksums.
    fn frame(&self, from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
        let receiver = self.fabric.mac_of(to).unwrap_or(MacAddr::BROADCAST);
        let mut frame = ip_frame(self.host.mac(), receiver, from, to, protocol, segment);
        complete_checksums(&mut frame);
        frame
    }
}

fn ip_frame(sender: MacAddr, receiver: MacAddr, from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(54 + segment.len());
    frame.extend(receiver.0);
    frame.extend(sender.0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend(IPV4.to_be_bytes());
            frame.extend([0x45, 0]);
            frame.extend(u16::try_from(20 + segment.len()).unwrap_or(u16::MAX).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (IpAddr::V6(_) | IpAddr::V4(_), IpAddr::V6(_) | IpAddr::V4(_)) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V6(address) => address.octets(),
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            };
            frame.extend(IPV6.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(u16::try_from(segment.len()).unwrap_or(u16::MAX).to_be_bytes());
            // Neighbour discovery is only believed with a hop limit that no router has lowered.
            frame.extend([protocol, 255]);
            frame.extend(octets(from));
            frame.extend(octets(to));
        }
    }
    frame.extend(segment);
    frame
}

/// An ARP answer that nobody asked for.
fn gratuitous_arp(sender: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(MacAddr::BROADCAST.0);
    frame.extend(sender.0);
    frame.extend(ARP.to_be_bytes());
    // Ethernet, IPv4, lengths of their addresses, an answer.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(sender.0);
    frame.extend(address.octets());
    frame.extend(MacAddr::BROADCAST.0);
    frame.extend(address.octets());
    frame
}

/// A neighbour advertisement that nobody asked for, to all nodes, that overrides what they knew (RFC 4861, 4.4).
fn advertisement(sender: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(sender.0);
    let receiver = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let mut frame = ip_frame(sender, receiver, address.into(), all_nodes.into(), ICMPV6, &message);
    complete_checksums(&mut frame);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoofed_announcements_are_read_as_what_they_claim() {
        let mac = MacAddr::of(9, 0);
        let arp = gratuitous_arp(mac, Ipv4Addr::new(192, 0, 2, 1));
        let address = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(
            Frame::parse(&arp).expect("a frame").network,
            Network::Arp {
                operation: 2,
                sender: address,
                target: address
            }
        );
        let advertised = advertisement(mac, "2001:db8::1".parse().expect("an address"));
        assert!(Frame::parse(&advertised).expect("a frame").is_discovery());
    }
}
