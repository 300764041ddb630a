//! Inside packets: addresses and lengths of IPv4 (RFC 791) and IPv6 (RFC 8200), and the ICMP errors that tell this
//! machine's own program at once why nothing was sent (RFC 792, RFC 4443). Errors go inside, never outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::DropReason;

/// A packet's addresses, its length checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Bytes of the packet; what follows in the buffer is no part of it.
    pub len: usize,
}

/// Reads the fixed header of an IPv4 or IPv6 packet. Never panics.
///
/// # Errors
/// [`DropReason::MalformedPacket`] when there is none, or when its lengths do not fit `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Packet, DropReason> {
    match bytes.first().map(|b| b >> 4) {
        Some(4) if bytes.len() >= 20 => {
            let header = usize::from(bytes[0] & 0xf) * 4;
            let len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            if header < 20 || len < header || len > bytes.len() {
                return Err(DropReason::MalformedPacket);
            }
            Ok(Packet {
                source: v4(&bytes[12..16]),
                destination: v4(&bytes[16..20]),
                len,
            })
        }
        Some(6) if bytes.len() >= 40 => {
            let len = 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            if len > bytes.len() {
                return Err(DropReason::MalformedPacket);
            }
            Ok(Packet {
                source: v6(&bytes[8..24]),
                destination: v6(&bytes[24..40]),
                len,
            })
        }
        _ => Err(DropReason::MalformedPacket),
    }
}

fn v4(b: &[u8]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(b[0], b[1], b[2], b[3]))
}

fn v6(b: &[u8]) -> IpAddr {
    let mut a = [0; 16];
    a.copy_from_slice(b);
    IpAddr::V6(Ipv6Addr::from(a))
}

/// True for addresses that a pair of machines cannot be: multicast, broadcast, unspecified, loopback, link-local.
#[must_use]
pub fn is_not_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => {
            a.is_multicast() || a.is_broadcast() || a.is_unspecified() || a.is_loopback() || a.is_link_local()
        }
        IpAddr::V6(a) => {
            a.is_multicast()
                || a.is_unspecified()
                || a.is_loopback()
                || a.is_unicast_link_local()
                || a.to_ipv4_mapped().is_some()
        }
    }
}

/// What an ICMP error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Communication administratively prohibited: no community in common.
    Prohibited,
    /// Host unreachable: a member, but it does not answer.
    Unreachable,
}

/// The ICMP error about `packet`, addressed to its source; `None` when none may be sent (RFC 1122 3.2.2, RFC 4443 2.4 (e)):
/// about an ICMP error, a later fragment, or what is not unicast.
#[must_use]
pub fn refusal(packet: &[u8], refusal: Refusal) -> Option<Vec<u8>> {
    let p = parse(packet).ok()?;
    if is_not_unicast(p.source) || is_not_unicast(p.destination) {
        return None;
    }
    match (p.source, p.destination) {
        (IpAddr::V4(to), IpAddr::V4(about)) => refusal_v4(&packet[..p.len], to, about, refusal),
        (IpAddr::V6(to), IpAddr::V6(about)) => refusal_v6(&packet[..p.len], to, about, refusal),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

fn refusal_v4(packet: &[u8], to: Ipv4Addr, about: Ipv4Addr, refusal: Refusal) -> Option<Vec<u8>> {
    let header = usize::from(packet[0] & 0xf) * 4;
    let later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
    let icmp_error = packet[9] == 1 && !matches!(packet.get(header), Some(0 | 8 | 13..=18));
    if later_fragment || icmp_error {
        return None;
    }
    let quoted = &packet[..packet.len().min(548)];
    let mut icmp = vec![3, if refusal == Refusal::Prohibited { 13 } else { 1 }, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(quoted);
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());

    let total = u16::try_from(20 + icmp.len()).ok()?;
    let mut out = vec![0x45, 0xc0];
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0x40, 0, 64, 1, 0, 0]);
    // From the address that could not be reached: our own would be a martian to this machine's own stack.
    out.extend_from_slice(&about.octets());
    out.extend_from_slice(&to.octets());
    let sum = checksum(&[&out]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&icmp);
    Some(out)
}

fn refusal_v6(packet: &[u8], to: Ipv6Addr, about: Ipv6Addr, refusal: Refusal) -> Option<Vec<u8>> {
    let icmp_error = packet[6] == 58 && packet.get(40).is_some_and(|t| *t < 128);
    if icmp_error {
        return None;
    }
    let quoted = &packet[..packet.len().min(1280 - 48)];
    let mut icmp = vec![1, if refusal == Refusal::Prohibited { 1 } else { 3 }, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(quoted);
    let len = u16::try_from(icmp.len()).ok()?;
    let pseudo_tail = [0, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], 0, 0, 0, 58];
    let sum = checksum(&[&about.octets(), &to.octets(), &pseudo_tail, &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut out = vec![0x60, 0, 0, 0];
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[58, 64]);
    out.extend_from_slice(&about.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&icmp);
    Some(out)
}

/// The Internet checksum (RFC 1071) of parts of even length (the last may be odd).
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits above")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_v4() -> Vec<u8> {
        let mut p = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        p.extend_from_slice(&[0, 1, 0, 2, 0, 8, 0, 0]);
        p
    }

    fn udp_v6() -> Vec<u8> {
        let mut p = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        p.extend_from_slice(&"fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        p.extend_from_slice(&"fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        p.extend_from_slice(&[0, 1, 0, 2, 0, 8, 0, 0]);
        p
    }

    #[test]
    fn addresses_and_lengths_are_read() {
        let p = parse(&udp_v4()).unwrap();
        assert_eq!(
            (p.source, p.destination, p.len),
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 28)
        );
        let p = parse(&udp_v6()).unwrap();
        assert_eq!(
            (p.source, p.destination, p.len),
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap(), 48)
        );
        for len in 0..28 {
            assert!(parse(&udp_v4()[..len]).is_err());
        }
        for len in 0..48 {
            assert!(parse(&udp_v6()[..len]).is_err());
        }
    }

    #[test]
    fn refusals_are_well_formed_and_answer_no_error() {
        for packet in [udp_v4(), udp_v6()] {
            let r = refusal(&packet, Refusal::Prohibited).unwrap();
            let p = parse(&r).unwrap();
            assert_eq!(p.len, r.len());
            assert_eq!(p.destination, parse(&packet).unwrap().source);
            assert_eq!(refusal(&r, Refusal::Prohibited), None, "no error about an error");
        }
        let r = refusal(&udp_v4(), Refusal::Unreachable).unwrap();
        assert_eq!(checksum(&[&r[..20]]), 0);
        assert_eq!(checksum(&[&r[20..]]), 0);
        let mut fragment = udp_v4();
        fragment[7] = 1;
        assert_eq!(refusal(&fragment, Refusal::Unreachable), None);
    }
}
