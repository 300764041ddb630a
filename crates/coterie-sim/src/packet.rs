//! Inside packets with a canary: eight bytes that stand in every packet of a world and nowhere else, and the packet's number.

use std::net::IpAddr;

use coterie_proto::wire::ip;

/// Protocol number of the packets (RFC 3692: for experiments).
pub const PROTOCOL: u8 = 253;

/// The mark of a world's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary(pub [u8; 8]);

impl Canary {
    /// A packet of `payload` bytes beyond the canary and its number.
    ///
    /// # Panics
    /// When the addresses are of two families or the payload is above 60,000 bytes: a caller's error.
    #[must_use]
    pub fn packet(self, number: u64, from: IpAddr, to: IpAddr, payload: usize) -> Vec<u8> {
        let len = 16 + payload;
        let mut p = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let total = u16::try_from(20 + len).expect("a small packet").to_be_bytes();
                let mut p = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, PROTOCOL, 0, 0];
                p.extend_from_slice(&from.octets());
                p.extend_from_slice(&to.octets());
                p
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let total = u16::try_from(len).expect("a small packet").to_be_bytes();
                let mut p = vec![0x60, 0, 0, 0, total[0], total[1], PROTOCOL, 64];
                p.extend_from_slice(&from.octets());
                p.extend_from_slice(&to.octets());
                p
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("one family"),
        };
        p.extend_from_slice(&self.0);
        p.extend_from_slice(&number.to_be_bytes());
        p.resize(p.len() + payload, number.to_be_bytes()[7]);
        p
    }

    /// True when `bytes` hold the canary anywhere.
    #[must_use]
    pub fn is_in(self, bytes: &[u8]) -> bool {
        bytes.windows(8).any(|w| w == self.0)
    }

    /// The number of a packet of this world; `None` for others, as the errors that a node makes about one.
    #[must_use]
    pub fn number(self, packet: &[u8]) -> Option<u64> {
        ip::parse(packet).ok()?;
        let (protocol, header) = if packet[0] >> 4 == 4 {
            (packet[9], 20)
        } else {
            (packet[6], 40)
        };
        let (mark, rest) = packet.get(header..)?.split_first_chunk::<8>()?;
        let number = rest.first_chunk::<8>()?;
        (protocol == PROTOCOL && *mark == self.0).then(|| u64::from_be_bytes(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_carries_its_number() {
        let canary = Canary(*b"canary!!");
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let p = canary.packet(77, from.parse().unwrap(), to.parse().unwrap(), 5);
            assert_eq!(canary.number(&p), Some(77));
            assert!(canary.is_in(&p));
            assert_eq!(Canary([1; 8]).number(&p), None);
            let refusal = ip::refusal(&p, ip::Refusal::Prohibited).unwrap();
            assert!(canary.is_in(&refusal));
            assert_eq!(canary.number(&refusal), None);
        }
    }
}
