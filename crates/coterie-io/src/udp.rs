//! The outside port: one UDP socket, read and written in batches.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with, sockopt};

use crate::socket::{RawAddress, set_option, set_option_bytes, set_recv_buffer};

mod batch;

use batch::{Arrival, MESSAGES};
pub use batch::{RecvBatch, Reservation, SendBatch};

/// How a port is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UdpOptions {
    /// Firewall mark of everything that is sent (`SO_MARK`); needs `CAP_NET_ADMIN` or `CAP_NET_RAW`.
    pub mark: Option<u32>,
    /// The only interface to send and receive by (`SO_BINDTODEVICE`).
    pub device: Option<String>,
    /// Bytes of receive buffer to ask for; 0 leaves the system's.
    pub recv_buffer: usize,
    /// Set DF and never fragment: a datagram larger than the interface's MTU is refused with `EMSGSIZE`, and what routers
    /// say about path MTUs (which anybody can forge) is not heeded.
    pub dont_fragment: bool,
    /// An IPv6 socket without mapped IPv4.
    pub only_v6: bool,
    /// Let the kernel join received datagrams of one size and sender (`UDP_GRO`); needs a [`RecvBatch`] with 64 KiB slots.
    pub gro: bool,
}

/// A bound, non-blocking UDP socket.
///
/// Bound to an IPv6 address it serves IPv4 too unless told otherwise; IPv4 addresses are plain in both directions.
#[derive(Debug)]
pub struct UdpPort {
    socket: OwnedFd,
    dual: bool,
}

impl UdpPort {
    /// Opens and binds a socket; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`; `PermissionDenied` for a mark without the capability; `NotFound` for a device that
    /// does not exist. The error names what was asked for.
    pub fn bind(local: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        Self::open(local, options)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot open the UDP port {local}: {error}")))
    }

    fn open(local: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let dual = local.is_ipv6();
        let family = if dual {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
        if dual {
            sockopt::set_ipv6_v6only(&socket, options.only_v6)?;
        }
        if let Some(mark) = options.mark {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
                .map_err(|error| context("the mark needs CAP_NET_ADMIN", &error))?;
        }
        if let Some(device) = &options.device {
            set_option_bytes(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())
                .map_err(|error| context(&format!("cannot bind to the interface {device:?}"), &error))?;
        }
        if options.recv_buffer > 0 {
            set_recv_buffer(&socket, options.recv_buffer)?;
        }
        if options.dont_fragment {
            if dual {
                set_option(
                    &socket,
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_PROBE,
                )?;
            }
            set_option(
                &socket,
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
            )?;
        }
        if options.gro {
            set_option(&socket, libc::IPPROTO_UDP, libc::UDP_GRO, 1)?;
        }
        bind(&socket, &local)?;
        Ok(Self { socket, dual })
    }

    /// The address that the socket is bound to, with the port that the kernel chose.
    ///
    /// # Errors
    /// Only what `getsockname(2)` reports for a broken socket.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        SocketAddr::try_from(getsockname(&self.socket)?).map_err(io::Error::from)
    }

    /// Replaces what `batch` holds with the datagrams that wait now, as many as it has room for, and returns the number
    /// of messages of the kernel (with `gro`, one may be several datagrams). Zero: none waits.
    ///
    /// Datagrams larger than the batch's slots are counted by [`RecvBatch::truncated`] and left out.
    ///
    /// # Errors
    /// What `recvmmsg(2)` reports, except that there is nothing to read.
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        let mut addresses = [RawAddress::EMPTY; MESSAGES];
        let mut controls = [Control::EMPTY; MESSAGES];
        let mut slots = batch.slots_mut().map(|slot| libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: slot.len(),
        });
        let mut vectors: [libc::iovec; MESSAGES] = std::array::from_fn(|_| {
            slots.next().unwrap_or(libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            })
        });
        drop(slots);
        let mut headers: [libc::mmsghdr; MESSAGES] = std::array::from_fn(|i| libc::mmsghdr {
            msg_hdr: libc::msghdr {
                msg_name: (&raw mut addresses[i]).cast(),
                msg_namelen: RawAddress::ROOM,
                msg_iov: &raw mut vectors[i],
                msg_iovlen: 1,
                msg_control: (&raw mut controls[i]).cast(),
                msg_controllen: Control::ROOM,
                msg_flags: 0,
            },
            msg_len: 0,
        });
        let count = loop {
            let room = u32::try_from(batch.slots()).map_err(io::Error::other)?;
            // SAFETY: each header points to an address, an iovec over a slot of the batch, and a control buffer, with
            // their true sizes; all of them outlive the call, and nothing else refers to them during it.
            let result = unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    room,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            match usize::try_from(result) {
                Ok(count) => break count,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    // An ICMP error that the kernel reports here belongs to a datagram sent earlier.
                    error if matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::EHOSTUNREACH)) => {}
                    error => return Err(error),
                },
            }
        };
        for i in 0..count {
            let header = &headers[i].msg_hdr;
            batch.arrived(Arrival {
                from: addresses[i].decode(header.msg_namelen),
                length: usize::try_from(headers[i].msg_len).map_err(io::Error::other)?,
                segment_size: controls[i].segment_size(header.msg_controllen),
                truncated: header.msg_flags & libc::MSG_TRUNC != 0,
            });
        }
        Ok(count)
    }

    /// Sends what `batch` holds, in order. A datagram that the kernel refuses is counted by its reason and does not hold up
    /// the others. When the socket's buffer is full, the rest stays in the batch and `unsent` is its number: wait until the
    /// port is writable and call again, or clear the batch.
    pub fn send(&self, batch: &mut SendBatch) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let mut retried = false;
        while !batch.is_empty() {
            match self.send_some(batch) {
                Some(Ok(count)) => {
                    outcome.sent += count;
                    batch.advance(count);
                    retried = false;
                }
                None => {
                    outcome.failed.unreachable += 1;
                    batch.advance(1);
                }
                Some(Err(error)) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS) => {
                        outcome.unsent = batch.len();
                        return outcome;
                    }
                    Some(libc::EINTR) => {}
                    // The report of an earlier datagram's fate; this one has not been tried yet.
                    Some(libc::ECONNREFUSED) if !retried => retried = true,
                    errno => {
                        outcome.failed.count(errno);
                        batch.advance(1);
                        retried = false;
                    }
                },
            }
        }
        batch.clear();
        outcome
    }

    /// One `sendmmsg`. `None`: the first datagram's address cannot be named by this socket.
    fn send_some(&self, batch: &mut SendBatch) -> Option<io::Result<usize>> {
        let mut addresses = [RawAddress::EMPTY; MESSAGES];
        let mut lengths = [0; MESSAGES];
        let mut vectors = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; MESSAGES];
        let mut count = 0;
        for (to, bytes) in batch.unsent().take(MESSAGES) {
            let Some((address, length)) = RawAddress::encode(to, self.dual) else {
                break;
            };
            (addresses[count], lengths[count]) = (address, length);
            vectors[count] = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            count += 1;
        }
        if count == 0 {
            return None;
        }
        let mut headers: [libc::mmsghdr; MESSAGES] = std::array::from_fn(|i| libc::mmsghdr {
            msg_hdr: libc::msghdr {
                msg_name: (&raw mut addresses[i]).cast(),
                msg_namelen: lengths[i],
                msg_iov: &raw mut vectors[i],
                msg_iovlen: 1,
                msg_control: std::ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            msg_len: 0,
        });
        let room = u32::try_from(count).expect("at most 32 messages");
        // SAFETY: the first `count` headers point to an address of the given length and to an iovec over bytes of the
        // batch, all of which outlive the call; the kernel only reads what the iovecs point to.
        let result = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), room, libc::MSG_DONTWAIT) };
        Some(usize::try_from(result).map_err(|_| io::Error::last_os_error()))
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct SendOutcome {
    /// Datagrams that the kernel took.
    pub sent: usize,
    /// Datagrams that the kernel refused.
    pub failed: Failures,
    /// Datagrams that are still in the batch, because the socket's buffer is full.
    pub unsent: usize,
}

/// Refused datagrams by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// Larger than the interface's MTU (`EMSGSIZE`).
    pub too_large: usize,
    /// No route, host or network down, or an address of a family that the socket does not have.
    pub unreachable: usize,
    /// Forbidden by the firewall or a prohibiting route (`EPERM`, `EACCES`).
    pub prohibited: usize,
    /// Refused by the other side (`ECONNREFUSED`).
    pub refused: usize,
    /// Anything else.
    pub other: usize,
}

impl Failures {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.too_large + self.unreachable + self.prohibited + self.refused + self.other
    }

    fn count(&mut self, errno: Option<i32>) {
        let counter = match errno {
            Some(libc::EMSGSIZE) => &mut self.too_large,
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT
                | libc::ENODEV
                | libc::ENONET,
            ) => &mut self.unreachable,
            Some(libc::EPERM | libc::EACCES) => &mut self.prohibited,
            Some(libc::ECONNREFUSED) => &mut self.refused,
            _ => &mut self.other,
        };
        *counter += 1;
    }
}

/// Room for the one control message that we ask for: a header of 16 bytes and an `int`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 24]);

impl Control {
    const EMPTY: Self = Self([0; 24]);
    const ROOM: usize = 24;

    /// The segment size that `UDP_GRO` reports, 0 when the message is one datagram.
    fn segment_size(&self, length: usize) -> usize {
        let word = |at: usize| i32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"));
        if length < 20 || word(8) != libc::IPPROTO_UDP || word(12) != libc::UDP_GRO {
            return 0;
        }
        usize::try_from(word(16)).unwrap_or(0)
    }
}

const _: () = assert!(
    size_of::<libc::cmsghdr>() == 16 && std::mem::offset_of!(libc::cmsghdr, cmsg_level) == 8,
    "the layout that Control::segment_size reads, on 64-bit Linux"
);
