//! Socket options and addresses for which rustix has no wrapper.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// Sets an integer option.
pub(crate) fn set_option(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_bytes(fd, level, name, &value.to_ne_bytes())
}

/// Sets an option whose value is a structure or a string of the kernel, given as its bytes.
pub(crate) fn set_option_bytes(fd: impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: pointer and length are those of a live slice, which the kernel only reads.
    let result = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks for a receive buffer of `bytes`: beyond the system's limit where we may, else as near to it as the kernel lets us.
pub(crate) fn set_recv_buffer(fd: impl AsFd, bytes: usize) -> io::Result<()> {
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&fd, bytes).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&fd, bytes)?;
    }
    Ok(())
}

/// Room for a socket address of either family, as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union RawAddress {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    /// An address that names nothing, for the kernel to fill in.
    pub(crate) const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// Bytes of the union: room enough for either family.
    pub(crate) const ROOM: libc::socklen_t = 28;

    /// `address` for a socket of family IPv6 (`dual`: IPv4 addresses are mapped into it) or IPv4, with its length.
    /// `None` when an IPv4 socket cannot name the address.
    pub(crate) fn encode(address: SocketAddr, dual: bool) -> Option<(Self, libc::socklen_t)> {
        let family = |family: i32| libc::sa_family_t::try_from(family).expect("address families are small numbers");
        let raw = match (address, dual) {
            (SocketAddr::V4(v4), false) => {
                let mut raw = Self::EMPTY;
                raw.v4 = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                return Some((raw, 16));
            }
            (SocketAddr::V6(_), false) => return None,
            (SocketAddr::V4(v4), true) => libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v4.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v4.ip().to_ipv6_mapped().octets(),
                },
                sin6_scope_id: 0,
            },
            (SocketAddr::V6(v6), true) => libc::sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            },
        };
        Some((Self { v6: raw }, Self::ROOM))
    }

    /// The address that the kernel wrote, `length` bytes of it, with mapped IPv4 addresses as IPv4.
    pub(crate) fn decode(&self, length: libc::socklen_t) -> Option<SocketAddr> {
        // SAFETY: every bit pattern is valid for both members, both begin with the family, and the union starts out with
        // all its bytes written.
        let (v4, v6) = unsafe { (self.v4, self.v6) };
        match i32::from(v4.sin_family) {
            libc::AF_INET if length >= 16 => {
                let ip = v4.sin_addr.s_addr.to_ne_bytes();
                Some(SocketAddr::V4(SocketAddrV4::new(ip.into(), u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 if length >= Self::ROOM => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(match ip.to_canonical() {
                    IpAddr::V4(v4) => SocketAddr::V4(SocketAddrV4::new(v4, port)),
                    IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)),
                })
            }
            _ => None,
        }
    }
}

const _: () = assert!(size_of::<RawAddress>() == 28 && size_of::<libc::sockaddr_in>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_the_kernel_and_back() {
        for text in ["192.0.2.1:7", "[2001:db8::1]:65535", "[fe80::1%3]:1"] {
            let address: SocketAddr = text.parse().expect("a literal");
            let (raw, length) = RawAddress::encode(address, true).expect("IPv6 sockets name all addresses");
            assert_eq!(length, RawAddress::ROOM);
            assert_eq!(raw.decode(length), Some(address));
        }
        let v4: SocketAddr = "192.0.2.1:7".parse().expect("a literal");
        let (raw, length) = RawAddress::encode(v4, false).expect("IPv4 on IPv4");
        assert_eq!((length, raw.decode(length)), (16, Some(v4)));
        assert!(RawAddress::encode("[::1]:1".parse().expect("a literal"), false).is_none());
        assert_eq!(raw.decode(15), None);
        assert_eq!(RawAddress::EMPTY.decode(RawAddress::ROOM), None);
    }
}
