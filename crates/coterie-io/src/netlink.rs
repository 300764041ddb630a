//! A blocking netlink socket: a request, and the kernel's answer to it.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// A socket for one of netlink's protocols, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

/// What both sides of a conversation are made of.
pub(crate) trait Message: NetlinkSerializable + NetlinkDeserializable + Debug {}

impl<T: NetlinkSerializable + NetlinkDeserializable + Debug> Message for T {}

impl Netlink {
    /// More than the kernel puts into one answer of a dump (32 KiB).
    const BUFFER: usize = 128 << 10;

    /// `None` is the protocol of interfaces and routes, whose number is 0.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; Self::BUFFER].into_boxed_slice(),
        })
    }

    /// Has the kernel do something, and waits until it has.
    pub(crate) fn request<T: Message>(&mut self, message: T, flags: u16) -> io::Result<()> {
        let sequence = self.send([(message, NLM_F_REQUEST | NLM_F_ACK | flags)])?;
        self.answers::<T>(sequence, |_| ())
    }

    /// Asks for one object.
    pub(crate) fn get<T: Message>(&mut self, message: T) -> io::Result<Option<T>> {
        let sequence = self.send([(message, NLM_F_REQUEST | NLM_F_ACK)])?;
        let mut found = None;
        self.answers(sequence, |answer| found = Some(answer))?;
        Ok(found)
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump<T: Message>(&mut self, message: T) -> io::Result<Vec<T>> {
        let sequence = self.send([(message, NLM_F_REQUEST | NLM_F_DUMP)])?;
        let mut found = Vec::new();
        self.answers(sequence, |answer| found.push(answer))?;
        Ok(found)
    }

    /// Sends messages that the kernel carries out together or not at all, numbered from the returned number on.
    pub(crate) fn send<T: Message>(&mut self, messages: impl IntoIterator<Item = (T, u16)>) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(first)
    }

    /// Reads until the request `sequence` is answered for good.
    fn answers<T: Message>(&mut self, sequence: u32, mut take: impl FnMut(T)) -> io::Result<()> {
        loop {
            let mut finished = None;
            self.receive::<T>(RecvFlags::empty(), |number, payload| {
                if number != sequence {
                    return;
                }
                match payload {
                    NetlinkPayload::InnerMessage(answer) => take(answer),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        finished = Some(Err(io::Error::from_raw_os_error(-done.code)));
                    }
                    NetlinkPayload::Done(_) => finished = Some(Ok(())),
                    NetlinkPayload::Error(error) => {
                        finished = Some(match error.raw_code() {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        });
                    }
                    NetlinkPayload::Overrun(_) => finished = Some(Err(io::Error::from_raw_os_error(libc::ENOBUFS))),
                    NetlinkPayload::Noop | _ => {}
                }
            })?;
            if let Some(result) = finished {
                return result;
            }
        }
    }

    /// Reads the outcomes that wait, without waiting for more: sequence number and error code (0: success). The kernel
    /// answers before the call that sent the request returns.
    pub(crate) fn outcomes<T: Message>(&mut self) -> io::Result<Vec<(u32, i32)>> {
        let mut outcomes = Vec::new();
        loop {
            let read = self.receive::<T>(RecvFlags::DONTWAIT, |number, payload| {
                if let NetlinkPayload::Error(error) = payload {
                    outcomes.push((number, -error.raw_code()));
                }
            });
            match read {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(outcomes),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive<T: Message>(
        &mut self,
        flags: RecvFlags,
        mut take: impl FnMut(u32, NetlinkPayload<T>),
    ) -> io::Result<()> {
        let (length, _) = rustix::io::retry_on_intr(|| recv(&self.socket, &mut *self.buffer, flags))?;
        let mut rest = &self.buffer[..length];
        while rest.len() >= 16 {
            let message = NetlinkMessage::<T>::deserialize(rest).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("an answer of the kernel that we cannot read: {error}"),
                )
            })?;
            let taken = usize::try_from(message.header.length)
                .map_err(io::Error::other)?
                .next_multiple_of(4);
            take(message.header.sequence_number, message.payload);
            rest = rest.get(taken.max(16)..).unwrap_or_default();
        }
        Ok(())
    }
}
