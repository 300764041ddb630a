//! Inside addresses.

use core::net::IpAddr;

use ipnet::IpNet;

/// An address range of one family with no host bits set; a single address is a `/32` or `/128`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

impl Prefix {
    /// The range of `addr` with `len` leading bits; `None` when `len` is too long or host bits are set, and for
    /// IPv4-mapped IPv6 addresses, which would be a second spelling of an IPv4 address.
    #[must_use]
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        if matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
            return None;
        }
        let net = IpNet::new(addr, len).ok()?;
        (net.trunc() == net).then_some(Self(net))
    }

    /// The range of a single address; `None` for an IPv4-mapped IPv6 address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Option<Self> {
        Self::new(addr, if addr.is_ipv4() { 32 } else { 128 })
    }

    /// The first address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.0.addr()
    }

    /// Leading bits.
    #[must_use]
    pub fn len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// True for the whole family (`/0`).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True for a single address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// True when `addr` lies in the range.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.0.contains(&addr)
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.is_host() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}
