//! Hardware addresses of the lab's interfaces.

use std::fmt;
use std::net::Ipv6Addr;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address of a host's interface: administered locally, and readable in a capture.
    pub(crate) fn of(host: u16, interface: u8) -> Self {
        let [high, low] = host.to_be_bytes();
        Self([0x02, 0xc0, 0x7e, high, low, interface])
    }

    /// Whether it names more than one receiver.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The link-local IPv6 address made of it (RFC 4291, appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_made_of_the_hardware_address() {
        let mac = MacAddr::of(1, 2);
        assert_eq!(mac.to_string(), "02:c0:7e:00:01:02");
        assert_eq!(mac.link_local().to_string(), "fe80::c0:7eff:fe00:102");
        assert!(MacAddr::BROADCAST.is_group() && !mac.is_group());
    }
}
