//! TCP sockets that a lockdown lets out.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};

use crate::socket::set_option;

/// A non-blocking socket for a connection to `to`, which is not made yet. With `mark` (`SO_MARK`, which needs
/// `CAP_NET_ADMIN` or `CAP_NET_RAW`) everything that it sends bears it.
///
/// # Errors
/// `PermissionDenied` for a mark without the capability; a process or system without a free descriptor.
pub fn socket(to: SocketAddr, mark: Option<u32>) -> io::Result<OwnedFd> {
    let family = if to.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(mark) = mark {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
            .map_err(|error| io::Error::new(error.kind(), format!("the mark needs CAP_NET_ADMIN: {error}")))?;
    }
    Ok(socket)
}
