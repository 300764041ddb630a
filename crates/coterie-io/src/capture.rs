//! Frames as they are on the wire: seen, sent, and written to a file that Wireshark opens.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::socket::{set_option, set_option_bytes, set_recv_buffer};

/// Sees every frame on an interface, of every type, to and from everybody.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    lost: u64,
}

/// One captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'capture> {
    /// When the kernel saw it, since 1970.
    pub time: Duration,
    /// From the destination's hardware address on. Larger than the interface's MTU when the kernel has joined packets; a
    /// VLAN tag that the hardware took off is not in it.
    pub bytes: &'capture [u8],
    /// Sent by this machine, through this interface.
    pub outgoing: bool,
}

impl Capture {
    const RECV_BUFFER: usize = 64 << 20;
    const LARGEST_FRAME: usize = 128 << 10;

    /// Starts capturing on `interface`, promiscuously.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`; an interface that does not exist.
    pub fn open(interface: &str) -> io::Result<Self> {
        // Bound to no type until it has its interface, so that no frame of another one slips in.
        let socket = packet_socket()?;
        set_recv_buffer(&socket, Self::RECV_BUFFER)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        let index = bind(&socket, interface, EVERY_TYPE)?;
        let mut request = [0; 16];
        request[..4].copy_from_slice(&index.to_ne_bytes());
        request[4..6].copy_from_slice(&PROMISCUOUS.to_ne_bytes());
        set_option_bytes(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)?;
        Ok(Self {
            socket,
            buffer: vec![0; Self::LARGEST_FRAME].into_boxed_slice(),
            lost: 0,
        })
    }

    /// The next frame, `None` when none waits. Wait with [`crate::poll::Poller`].
    ///
    /// # Errors
    /// What `recvmsg(2)` reports, for instance that the interface went down.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame<'_>>> {
        let mut vector = libc::iovec {
            iov_base: self.buffer.as_mut_ptr().cast(),
            iov_len: self.buffer.len(),
        };
        let mut address = LinkAddress([0; 20]);
        let mut control = Timestamp([0; 32]);
        // SAFETY: `msghdr` is plain data for which all bits zero is a valid value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut address).cast();
        header.msg_namelen = 20;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = 32;
        let length = loop {
            // SAFETY: the header points to an address, an iovec over our buffer and a control buffer, with their true
            // sizes; all of them outlive the call.
            let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
            match usize::try_from(result) {
                Ok(length) => break length,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        };
        Ok(Some(Frame {
            time: control.time(header.msg_controllen),
            bytes: &self.buffer[..length],
            outgoing: address.is_outgoing(),
        }))
    }

    /// Frames that the kernel had no room to keep, since the capture was opened. Not zero means: the capture is not whole.
    ///
    /// # Errors
    /// Only what `getsockopt(2)` reports for a broken socket.
    pub fn lost(&mut self) -> io::Result<u64> {
        let mut statistics = [0_u32; 2];
        let mut length: libc::socklen_t = 8;
        // SAFETY: pointer and length are those of a live array of two integers, which is what this option writes.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // Reading the option sets it back to zero.
        self.lost += u64::from(statistics[1]);
        Ok(self.lost)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends frames exactly as given, whatever they claim to be.
#[derive(Debug)]
pub struct FrameSender {
    socket: OwnedFd,
}

impl FrameSender {
    /// Opens `interface` for sending.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`; an interface that does not exist.
    pub fn open(interface: &str) -> io::Result<Self> {
        let socket = packet_socket()?;
        bind(&socket, interface, 0)?;
        Ok(Self { socket })
    }

    /// Sends one frame, from the destination's hardware address on. Blocks while the interface's queue is full.
    ///
    /// # Errors
    /// `EMSGSIZE` beyond the interface's MTU; `ENETDOWN`; `ENOBUFS` when something dropped it on this machine.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, frame, rustix::net::SendFlags::empty()))?;
        Ok(())
    }
}

const PACKET_FAMILY: u16 = 17;
const EVERY_TYPE: u16 = 3;
const PROMISCUOUS: u16 = 1;
const PACKET_STATISTICS: i32 = 6;

/// A packet socket that receives nothing until it is bound to a type.
fn packet_socket() -> io::Result<OwnedFd> {
    socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(
            error.kind(),
            format!("cannot open a packet socket, which needs CAP_NET_RAW: {error}"),
        )
    })
}

/// Binds to an interface and an EtherType (0: none), and returns the interface's index.
fn bind(socket: &OwnedFd, interface: &str, ethertype: u16) -> io::Result<i32> {
    let found = netdevice::name_to_index(socket, interface).map_err(io::Error::from);
    let index = found.map_err(|error| io::Error::new(error.kind(), format!("interface {interface:?}: {error}")))?;
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let mut address = LinkAddress([0; 20]);
    address.0[..2].copy_from_slice(&PACKET_FAMILY.to_ne_bytes());
    address.0[2..4].copy_from_slice(&ethertype.to_be_bytes());
    address.0[4..8].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: the address is 20 bytes, laid out as `sockaddr_ll`, and outlives the call, which only reads it.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), 20) };
    if result == 0 {
        Ok(index)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct sockaddr_ll`: family, protocol, index, hardware type, packet type at 10, and a hardware address.
#[repr(C, align(4))]
struct LinkAddress([u8; 20]);

impl LinkAddress {
    fn is_outgoing(&self) -> bool {
        self.0[10] == libc::PACKET_OUTGOING
    }
}

/// Room for the one control message that we ask for: a header of 16 bytes and a `timespec`.
#[repr(C, align(8))]
struct Timestamp([u8; 32]);

impl Timestamp {
    fn time(&self, length: usize) -> Duration {
        let long = |at: usize| i64::from_ne_bytes(self.0[at..at + 8].try_into().expect("eight bytes"));
        if length < 32 {
            return Duration::ZERO;
        }
        Duration::new(
            u64::try_from(long(16)).unwrap_or(0),
            u32::try_from(long(24)).unwrap_or(0),
        )
    }
}

const _: () = assert!(PACKET_FAMILY as i32 == libc::AF_PACKET && EVERY_TYPE as i32 == libc::ETH_P_ALL);
const _: () = assert!(size_of::<libc::sockaddr_ll>() == 20 && size_of::<libc::timespec>() == 16);

/// Writes frames as a pcap file with nanosecond times.
#[derive(Debug)]
pub struct PcapWriter<W> {
    to: W,
}

impl<W: Write> PcapWriter<W> {
    const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
    const ETHERNET: u32 = 1;
    const LARGEST_FRAME: u32 = 256 << 10;

    /// Writes the file's header.
    ///
    /// # Errors
    /// What writing reports.
    pub fn new(mut to: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend_from_slice(&Self::MAGIC_NANOSECONDS.to_le_bytes());
        header.extend_from_slice(&2_u16.to_le_bytes());
        header.extend_from_slice(&4_u16.to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&Self::LARGEST_FRAME.to_le_bytes());
        header.extend_from_slice(&Self::ETHERNET.to_le_bytes());
        to.write_all(&header)?;
        Ok(Self { to })
    }

    /// Writes one frame.
    ///
    /// # Errors
    /// What writing reports; `InvalidInput` for a frame of more than 256 KiB or a time after the year 2105.
    pub fn write(&mut self, time: Duration, frame: &[u8]) -> io::Result<()> {
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "a frame that pcap cannot hold");
        let length = u32::try_from(frame.len()).map_err(invalid)?;
        let seconds = u32::try_from(time.as_secs()).map_err(invalid)?;
        for word in [seconds, time.subsec_nanos(), length, length] {
            self.to.write_all(&word.to_le_bytes())?;
        }
        self.to.write_all(frame)
    }

    /// Writes out what is still in memory, and returns what was written to.
    ///
    /// # Errors
    /// What writing reports.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.flush()?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcap_file_has_a_header_and_a_record_for_each_frame() {
        let mut writer = PcapWriter::new(Vec::new()).expect("memory can be written");
        writer
            .write(Duration::new(1, 2), &[0xaa; 60])
            .expect("memory can be written");
        let bytes = writer.finish().expect("memory can be written");
        assert_eq!(bytes.len(), 24 + 16 + 60);
        assert_eq!(bytes[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(
            bytes[20..40],
            [1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 60, 0, 0, 0, 60, 0, 0, 0]
        );
        assert_eq!(bytes[40..], [0xaa; 60]);
    }
}
