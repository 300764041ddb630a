//! The inside interface: a TUN device, read and written in batches.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Free bytes in front of every packet of a batch, for the header of a sealed datagram.
pub const HEADROOM: usize = 64;

/// Free bytes behind every packet of a batch, for padding and tag of a sealed datagram.
pub const TAILROOM: usize = 64;

/// Packets in a batch, and the most that one [`Tun::recv`] reads.
pub const BATCH: usize = 64;

/// Raw IP without a header of the kernel's, and an error if the device exists.
const FLAGS: u16 = 0x9001;
const _: () = assert!(FLAGS as i32 == libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL);

/// A TUN device: raw IP packets without a link header, one queue, non-blocking. It exists as long as this value does.
#[derive(Debug)]
pub struct Tun {
    device: File,
    name: String,
    oversized: u64,
}

impl Tun {
    /// Makes the device `name` (1 to 15 bytes). It starts down, without addresses; see [`crate::link::Links`].
    ///
    /// # Errors
    /// `AlreadyExists` when an interface has this name; `PermissionDenied` without `CAP_NET_ADMIN`; `NotFound` when the
    /// kernel has no `tun`; `InvalidInput` for a name that no interface can have.
    pub fn create(name: &str) -> io::Result<Self> {
        let mut request = interface_request(name)?;
        request.ifr_ifru.ifru_flags = FLAGS.cast_signed();

        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(|error| explain(name, error))?;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives on this stack frame for the whole call.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result < 0 {
            return Err(explain(name, io::Error::last_os_error()));
        }
        rustix::io::ioctl_fionbio(&device, true)?;
        Ok(Self {
            device,
            name: name.to_owned(),
            oversized: 0,
        })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Packets that were larger than a batch's slots and were thrown away, since the device was made. Not zero means
    /// that the interface's MTU is larger than the `max_packet` of the batch.
    #[must_use]
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    /// Replaces what `batch` holds with the packets that wait now, until none waits or the batch is full, and returns
    /// their number. Zero: none waits.
    ///
    /// # Errors
    /// What `read(2)` reports, for instance that the interface is down (`EIO`, with no packet read).
    pub fn recv(&mut self, batch: &mut PacketBatch) -> io::Result<usize> {
        batch.clear();
        while let Some(slot) = batch.free_slot() {
            match self.device.read(slot) {
                Ok(length) if batch.fill(length, 0) => {}
                Ok(_) => self.oversized += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if !batch.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(batch.len())
    }

    /// Gives one IP packet to the kernel, as if it had come in on this interface.
    ///
    /// # Errors
    /// `InvalidInput` for what is no IP packet; `EIO` when the interface is down; `OutOfMemory`.
    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        loop {
            match self.device.write(packet) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which all bits zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let fits = !name.is_empty() && name.len() < request.ifr_name.len() && !name.contains('\0');
    if !fits {
        let why = format!("{name:?} cannot be an interface's name: it takes 1 to 15 bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn explain(name: &str, error: io::Error) -> io::Error {
    let (kind, why) = match error.raw_os_error() {
        Some(libc::EBUSY) => (
            io::ErrorKind::AlreadyExists,
            "an interface has this name already; remove it or choose another name",
        ),
        Some(libc::EPERM | libc::EACCES) => (
            io::ErrorKind::PermissionDenied,
            "it needs CAP_NET_ADMIN and access to /dev/net/tun",
        ),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => (
            io::ErrorKind::NotFound,
            "the kernel has no TUN devices; load the module with `modprobe tun`",
        ),
        _ => (error.kind(), "the kernel refused"),
    };
    io::Error::new(kind, format!("cannot make the interface {name:?}: {why} ({error})"))
}

/// Up to [`BATCH`] packets, each with [`HEADROOM`] in front and [`TAILROOM`] behind. The memory is taken once and used
/// again for every batch.
pub struct PacketBatch {
    arena: Box<[u8]>,
    max_packet: usize,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    length: usize,
    segment_size: u16,
}

impl PacketBatch {
    /// An empty batch for packets of up to `max_packet` bytes (at least the interface's MTU).
    #[must_use]
    pub fn new(max_packet: usize) -> Self {
        let stride = HEADROOM + max_packet + TAILROOM;
        Self {
            arena: vec![0; stride * BATCH].into_boxed_slice(),
            max_packet,
            entries: Vec::with_capacity(BATCH),
        }
    }

    /// Packets that it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets its packets. Their bytes stay in memory until overwritten.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Adds a copy of `packet`, for callers whose packets come from elsewhere than a TUN. `false`: full, or the packet
    /// is larger than `max_packet`.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(slot) = self.free_slot() else { return false };
        let Some(room) = slot.get_mut(..packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        self.fill(packet.len(), 0)
    }

    /// The packets, in the order in which they came.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        let stride = self.stride();
        self.arena
            .chunks_exact_mut(stride)
            .zip(&self.entries)
            .map(|(slot, entry)| Packet {
                slot,
                length: entry.length,
                segment_size: entry.segment_size,
            })
    }

    fn stride(&self) -> usize {
        HEADROOM + self.max_packet + TAILROOM
    }

    /// Where the next packet goes: one byte more than the largest packet, so that a larger one is seen.
    fn free_slot(&mut self) -> Option<&mut [u8]> {
        let used = self.entries.len();
        if used == BATCH {
            return None;
        }
        let start = used * self.stride() + HEADROOM;
        self.arena.get_mut(start..=start + self.max_packet)
    }

    /// Takes the free slot with a packet of `length` bytes in it; `false` when the packet was larger than the largest.
    fn fill(&mut self, length: usize, segment_size: u16) -> bool {
        let fits = length <= self.max_packet;
        if fits {
            self.entries.push(Entry { length, segment_size });
        }
        fits
    }
}

impl std::fmt::Debug for PacketBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketBatch")
            .field("packets", &self.len())
            .field("max_packet", &self.max_packet)
            .finish()
    }
}

/// One packet of a batch, and the room around it.
pub struct Packet<'batch> {
    slot: &'batch mut [u8],
    length: usize,
    segment_size: u16,
}

impl<'batch> Packet<'batch> {
    /// The packet: an IP header and what follows it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.slot[self.span()]
    }

    /// The packet, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let span = self.span();
        &mut self.slot[span]
    }

    /// The packet with `before` bytes in front of it and `behind` bytes after it, for a datagram that is built where the
    /// packet lies. What the room holds is left over from earlier packets.
    ///
    /// # Panics
    /// If `before` is more than [`HEADROOM`] or `behind` is more than [`TAILROOM`].
    #[must_use]
    pub fn into_frame(self, before: usize, behind: usize) -> &'batch mut [u8] {
        assert!(
            before <= HEADROOM && behind <= TAILROOM,
            "a frame needs {before} + {behind} bytes around its packet"
        );
        let span = self.span();
        &mut self.slot[span.start - before..span.end + behind]
    }

    /// Payload bytes of each packet that this one is to be cut into, when it is a super-packet of an offload; 0: it is
    /// one packet.
    #[must_use]
    pub fn segment_size(&self) -> u16 {
        self.segment_size
    }

    fn span(&self) -> Range<usize> {
        HEADROOM..HEADROOM + self.length
    }
}

impl std::fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet")
            .field("length", &self.length)
            .field("segment_size", &self.segment_size)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_room_on_both_sides_and_do_not_touch_each_other() {
        let mut batch = PacketBatch::new(100);
        for number in 0..BATCH {
            let byte = u8::try_from(number).expect("64 fits");
            assert!(batch.push(&vec![byte; 1 + number]));
        }
        assert!(!batch.push(&[1]), "a full batch took a packet");
        for packet in batch.packets_mut() {
            packet.into_frame(HEADROOM, TAILROOM)[..HEADROOM].fill(0xee);
        }
        for (number, mut packet) in batch.packets_mut().enumerate() {
            let byte = u8::try_from(number).expect("64 fits");
            assert_eq!(packet.bytes(), vec![byte; 1 + number]);
            assert_eq!(packet.bytes_mut().len(), 1 + number);
            assert_eq!(packet.into_frame(16, 32).len(), 16 + 1 + number + 32);
        }
    }

    #[test]
    fn a_packet_larger_than_a_slot_is_refused() {
        let mut batch = PacketBatch::new(100);
        assert!(!batch.push(&[0; 101]));
        assert!(batch.push(&[0; 100]));
        assert_eq!(batch.len(), 1);
        batch.clear();
        assert!(batch.is_empty());
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["", "sixteen-bytes-xx", "a\0b"] {
            assert_eq!(
                Tun::create(name).expect_err("refused").kind(),
                io::ErrorKind::InvalidInput
            );
        }
    }
}
