//! What a frame says of itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::MacAddr;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// An Ethernet frame, read as far as it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Who it is for.
    pub destination: MacAddr,
    /// Who it claims to be from.
    pub source: MacAddr,
    /// Its VLAN, if it is tagged.
    pub vlan: Option<u16>,
    /// What follows the Ethernet header and tag.
    pub ethertype: u16,
    /// The next layer.
    pub network: Network,
    /// What follows the headers that were read.
    pub payload: &'a [u8],
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// An ARP packet.
    Arp {
        /// 1 asks, 2 answers.
        operation: u16,
        /// Whose address it tells.
        sender: Ipv4Addr,
        /// Whose address it asks for.
        target: Ipv4Addr,
    },
    /// An IPv4 or IPv6 packet.
    Ip {
        /// Who it claims to be from.
        source: IpAddr,
        /// Who it is for.
        destination: IpAddr,
        /// The protocol, behind IPv6 extension headers: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6.
        protocol: u8,
        /// Source and destination port, of TCP and UDP. Not in a later fragment.
        ports: Option<(u16, u16)>,
        /// The type, of ICMP and ICMPv6. Not in a later fragment.
        icmp: Option<u8>,
    },
    /// Anything else, or a packet that is cut short.
    Other,
}

impl<'a> Frame<'a> {
    /// Reads a frame. `None` when it is too short to be one.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let destination = MacAddr(*bytes.first_chunk()?);
        let source = MacAddr(*bytes.get(6..)?.first_chunk()?);
        let (mut ethertype, mut rest) = (u16_at(bytes, 12)?, bytes.get(14..)?);
        let mut vlan = None;
        if ethertype == VLAN {
            vlan = Some(u16_at(rest, 0)? & 0x0fff);
            ethertype = u16_at(rest, 2)?;
            rest = rest.get(4..)?;
        }
        let (network, payload) = match ethertype {
            ARP => (parse_arp(rest).unwrap_or(Network::Other), &rest[rest.len()..]),
            IPV4 | IPV6 => Located::of(ethertype, rest).map_or((Network::Other, rest), |ip| ip.read(rest)),
            _ => (Network::Other, rest),
        };
        Some(Self {
            destination,
            source,
            vlan,
            ethertype,
            network,
            payload,
        })
    }

    /// How it is counted.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.network {
            Network::Ip {
                protocol, ports, icmp, ..
            } => Kind {
                ethertype: self.ethertype,
                protocol: Some(protocol),
                detail: ports.map(|(_, to)| to).or_else(|| icmp.map(u16::from)),
            },
            Network::Arp { .. } | Network::Other => Kind {
                ethertype: self.ethertype,
                protocol: None,
                detail: None,
            },
        }
    }

    /// Whether it is how machines on a link find one another's hardware addresses: ARP, or ICMPv6 neighbour discovery.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        self.kind().is_discovery()
    }
}

/// Frames that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// What the Ethernet header announces.
    pub ethertype: u16,
    /// The IP protocol.
    pub protocol: Option<u8>,
    /// The destination port, or the ICMP type.
    pub detail: Option<u16>,
}

impl Kind {
    /// Whether these are ARP or ICMPv6 neighbour discovery (RFC 4861: types 133 to 137).
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        self.ethertype == ARP
            || (self.protocol == Some(ICMPV6) && self.detail.is_some_and(|t| (133..=137).contains(&t)))
    }

    /// Whether these are reports of a host's multicast groups, which the kernel sends by itself (MLD).
    #[must_use]
    pub fn is_group_report(&self) -> bool {
        self.protocol == Some(ICMPV6) && self.detail.is_some_and(|t| (130..=132).contains(&t) || t == 143)
    }

    /// Whether these are UDP datagrams to a port.
    #[must_use]
    pub fn is_udp_to(&self, port: u16) -> bool {
        self.protocol == Some(UDP) && self.detail == Some(port)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ethertype {
            ARP => return f.write_str("ARP"),
            IPV4 => f.write_str("IPv4")?,
            IPV6 => f.write_str("IPv6")?,
            other => write!(f, "ethertype {other:#06x}")?,
        }
        let Some(protocol) = self.protocol else { return Ok(()) };
        match protocol {
            ICMP => f.write_str(" ICMP")?,
            TCP => f.write_str(" TCP")?,
            UDP => f.write_str(" UDP")?,
            ICMPV6 => f.write_str(" ICMPv6")?,
            other => write!(f, " protocol {other}")?,
        }
        match (protocol, self.detail) {
            (_, None) => Ok(()),
            (TCP | UDP, Some(port)) => write!(f, " port {port}"),
            (_, Some(kind)) => write!(f, " type {kind}"),
        }
    }
}

/// Computes the checksums that a sender left to hardware that the lab does not have. Frames that are fragments, or no
/// UDP, TCP or ICMP, stay as they are.
pub(crate) fn complete_checksums(frame: &mut [u8]) {
    let Some(ethertype) = u16_at(frame, 12) else { return };
    let Some(packet) = frame.get_mut(14..) else { return };
    let Some(ip) = Located::of(ethertype, packet) else {
        return;
    };
    if ip.fragment || ip.end > packet.len() {
        return;
    }
    if ethertype == IPV4 {
        packet[10..12].fill(0);
        let sum = fold(sum(&packet[..ip.header]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let segment = &mut packet[ip.transport..ip.end];
    let at = match ip.protocol {
        UDP => 6,
        TCP => 16,
        ICMPV6 | ICMP => 2,
        _ => return,
    };
    if segment.len() < at + 2 || (ip.protocol == UDP && segment[6..8] == [0, 0]) {
        return;
    }
    segment[at..at + 2].fill(0);
    let length = u32::try_from(segment.len()).unwrap_or(0);
    let pseudo = match (ip.source, ip.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) if ip.protocol == ICMP => 0,
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()) + u32::from(ip.protocol) + length,
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()) + u32::from(ip.protocol) + length,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return,
    };
    let mut checksum = fold(pseudo + sum(segment));
    if checksum == 0 && ip.protocol == UDP {
        checksum = 0xffff;
    }
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Where the parts of an IP packet are.
struct Located {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    header: usize,
    transport: usize,
    end: usize,
    fragment: bool,
    later_fragment: bool,
}

impl Located {
    fn of(ethertype: u16, packet: &[u8]) -> Option<Self> {
        match ethertype {
            IPV4 => Self::of_ipv4(packet),
            IPV6 => Self::of_ipv6(packet),
            _ => None,
        }
    }

    fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        if packet[0] >> 4 != 4 || header < 20 || packet.len() < header {
            return None;
        }
        let fragment = u16_at(packet, 6)?;
        let address = |at: usize| {
            packet[at..at + 4]
                .first_chunk::<4>()
                .map(|octets| IpAddr::from(*octets))
        };
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            protocol: packet[9],
            header,
            transport: header,
            end: usize::from(u16_at(packet, 2)?).max(header),
            fragment: fragment & 0x3fff != 0,
            later_fragment: fragment & 0x1fff != 0,
        })
    }

    fn of_ipv6(packet: &[u8]) -> Option<Self> {
        if packet.len() < 40 || packet[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| {
            packet[at..at + 16]
                .first_chunk::<16>()
                .map(|octets| Ipv6Addr::from(*octets))
        };
        let (mut protocol, mut transport) = (packet[6], 40);
        let (mut fragment, mut later_fragment) = (false, false);
        loop {
            match protocol {
                // Hop-by-hop options, routing header, destination options.
                0 | 43 | 60 => {
                    let length = (usize::from(*packet.get(transport + 1)?) + 1) * 8;
                    protocol = packet[transport];
                    transport += length;
                }
                44 => {
                    let offset = u16_at(packet, transport + 2)?;
                    fragment = true;
                    later_fragment |= offset & 0xfff8 != 0;
                    protocol = packet[transport];
                    transport += 8;
                }
                _ => break,
            }
        }
        if transport > packet.len() {
            return None;
        }
        Some(Self {
            source: address(8)?.into(),
            destination: address(24)?.into(),
            protocol,
            header: 40,
            transport,
            end: (40 + usize::from(u16_at(packet, 4)?)).max(transport),
            fragment,
            later_fragment,
        })
    }

    fn read<'a>(&self, packet: &'a [u8]) -> (Network, &'a [u8]) {
        // The kernel's own joined packets may be longer than the header can say; then the frame's end counts.
        let end = if self.end == self.transport {
            packet.len()
        } else {
            self.end.min(packet.len())
        };
        let segment = packet.get(self.transport..end).unwrap_or(&[]);
        let first = !self.later_fragment;
        let ports = if first && [TCP, UDP].contains(&self.protocol) {
            u16_at(segment, 0).zip(u16_at(segment, 2))
        } else {
            None
        };
        let icmp = if first && [ICMP, ICMPV6].contains(&self.protocol) {
            segment.first().copied()
        } else {
            None
        };
        let header = match self.protocol {
            UDP if first => 8,
            TCP if first => segment.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4),
            _ => 0,
        };
        let network = Network::Ip {
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            ports,
            icmp,
        };
        (network, segment.get(header..).unwrap_or(&[]))
    }
}

fn parse_arp(packet: &[u8]) -> Option<Network> {
    let address = |at: usize| {
        packet
            .get(at..)?
            .first_chunk::<4>()
            .map(|octets| Ipv4Addr::from(*octets))
    };
    Some(Network::Arp {
        operation: u16_at(packet, 6)?,
        sender: address(14)?,
        target: address(24)?,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

/// The sum of 16-bit words, not folded yet (RFC 1071). A frame is far too short to overflow it.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_frame() -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0];
        frame.extend([0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend([0x12, 0x34, 0x00, 0x35, 0, 12, 0xff, 0xff, b'a', b'b', b'c', b'd']);
        // Ethernet's padding is no part of the datagram.
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_datagram_is_read_with_its_ports_and_without_padding() {
        let frame = udp_frame();
        let parsed = Frame::parse(&frame).expect("a frame");
        assert_eq!(
            parsed.kind(),
            Kind {
                ethertype: IPV4,
                protocol: Some(UDP),
                detail: Some(53)
            }
        );
        assert_eq!(parsed.payload, b"abcd");
        assert_eq!(parsed.kind().to_string(), "IPv4 UDP port 53");
    }

    #[test]
    fn a_vlan_tag_is_read_over() {
        let mut frame = udp_frame();
        frame.splice(12..12, [0x81, 0, 0x20, 5]);
        let parsed = Frame::parse(&frame).expect("a frame");
        assert_eq!((parsed.vlan, parsed.payload), (Some(5), &b"abcd"[..]));
    }

    #[test]
    fn group_reports_are_found_behind_options_and_are_no_discovery() {
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 0x16, 0x02, 0, 0, 0, 0, 1, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, 0, 16, 0, 1]);
        frame.extend([0xfe; 16]);
        frame.extend([0xff; 16]);
        frame.extend([58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]);
        let kind = Frame::parse(&frame).expect("a frame").kind();
        assert!(kind.is_group_report() && !kind.is_discovery(), "{kind}");
    }

    #[test]
    fn completed_checksums_add_up() {
        let mut frame = udp_frame();
        complete_checksums(&mut frame);
        let packet = &frame[14..46];
        assert_eq!(fold(sum(&packet[..20])), 0);
        let pseudo = sum(&packet[12..20]) + u32::from(UDP) + 12;
        assert_eq!(fold(pseudo + sum(&packet[20..])), 0);
        assert_ne!(packet[26..28], [0xff, 0xff]);
    }

    #[test]
    fn nothing_that_is_cut_short_is_read_beyond_its_end() {
        let frame = udp_frame();
        for length in 0..frame.len() {
            let mut cut = frame[..length].to_vec();
            assert_eq!(Frame::parse(&cut).is_some(), length >= 14);
            complete_checksums(&mut cut);
        }
    }
}
