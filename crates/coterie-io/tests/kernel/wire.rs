//! Frames, as a neighbour on the wire sees and forges them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use coterie_io::capture::Capture;

use crate::namespace::readable;

/// What a frame is, in words: `arp`, `nd 135`, `udp4 7000>9`, `tcp6 80>4000`, `icmp4`, `ip6 next 0`, `type 88b5`.
pub(crate) fn kind(frame: &[u8]) -> String {
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    let payload = &frame[14..];
    match ethertype {
        0x0806 => "arp".to_owned(),
        0x0800 => transport(4, payload[9], &payload[usize::from(payload[0] & 15) * 4..]),
        0x86dd => transport(6, payload[6], &payload[40..]),
        other => format!("type {other:04x}"),
    }
}

fn transport(version: u8, protocol: u8, header: &[u8]) -> String {
    let ports = || {
        format!(
            "{}>{}",
            u16::from_be_bytes([header[0], header[1]]),
            u16::from_be_bytes([header[2], header[3]])
        )
    };
    match (protocol, version) {
        (6, _) => format!("tcp{version} {}", ports()),
        (17, _) => format!("udp{version} {}", ports()),
        (1, 4) => "icmp4".to_owned(),
        (58, 6) if (133..=137).contains(&header[0]) => format!("nd {}", header[0]),
        (58, 6) => format!("icmp6 {}", header[0]),
        _ => format!("ip{version} next {protocol}"),
    }
}

/// Whether an IP packet carries UDP.
pub(crate) fn is_udp(packet: &[u8]) -> bool {
    let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
    protocol == 17
}

/// Whether anybody may send it: address resolution and neighbour discovery.
pub(crate) fn is_resolution(kind: &str) -> bool {
    matches!(kind, "arp" | "nd 133" | "nd 135" | "nd 136")
}

/// Kinds of all frames from the hardware address `from`, until a frame that contains `last` has been seen from anybody.
pub(crate) fn kinds_until(capture: &mut Capture, from: &[u8], last: &[u8], limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    let mut kinds = Vec::new();
    loop {
        while let Some(frame) = capture.next_frame().expect("captured") {
            if frame.bytes.windows(last.len()).any(|part| part == last) {
                assert_eq!(capture.lost().expect("counted"), 0, "the capture is not whole");
                return kinds;
            }
            if frame.bytes[6..12] == *from {
                kinds.push(kind(frame.bytes));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(
            readable(&*capture, left),
            "the last frame did not come; before it: {kinds:?}"
        );
    }
}

/// An IPv4 or IPv6 datagram in an Ethernet frame. The checksum of UDP is left out over IPv4, and wrong over IPv6: for
/// frames that nobody is to accept.
pub(crate) fn udp_frame(
    to: &[u8],
    from: &[u8],
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("short");
    let mut udp = Vec::new();
    udp.extend(source.port().to_be_bytes());
    udp.extend(destination.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let mut frame = [to, from].concat();
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum: u32 = header
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
                .sum();
            let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("ten words carry less than once");
            header[10..12].copy_from_slice(&(!folded).to_be_bytes());
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([17, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => panic!("addresses of two families"),
    }
    frame.extend(udp);
    frame
}
