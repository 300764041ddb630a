//! The canonical binary encoding of signed objects and control frames (WIRE section 1): big-endian integers, counted
//! byte strings, no optional parts, so that a value has exactly one encoding.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Name, Prefix};

/// Bytes that are no encoding of the value that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what} at byte {offset}")]
pub struct Malformed {
    /// The field that could not be read.
    pub what: &'static str,
    /// Where it starts, counted from the first byte of the object.
    pub offset: usize,
}

/// Appends fields to a byte string.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes(&v.to_be_bytes())
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.0.extend_from_slice(v);
        self
    }

    /// A name: length (1), text.
    pub fn name(&mut self, v: &Name) -> &mut Self {
        let text = v.as_str().as_bytes();
        self.u8(u8::try_from(text.len()).expect("a name has at most 63 bytes"))
            .bytes(text)
    }

    /// A byte string: length (2), bytes.
    ///
    /// # Panics
    /// When `v` is longer than 65,535 bytes: a caller's error.
    pub fn counted(&mut self, v: &[u8]) -> &mut Self {
        self.u16(u16::try_from(v.len()).expect("a counted string has at most 65,535 bytes"))
            .bytes(v)
    }

    /// A prefix: family (1: 4 or 6), length (1), address (4 or 16).
    pub fn prefix(&mut self, v: &Prefix) -> &mut Self {
        self.ip_tagged(v.addr(), Some(v.len()))
    }

    /// An address and port: family (1: 4 or 6), address (4 or 16), port (2).
    pub fn endpoint(&mut self, v: &SocketAddr) -> &mut Self {
        self.ip_tagged(v.ip(), None).u16(v.port())
    }

    fn ip_tagged(&mut self, ip: IpAddr, len: Option<u8>) -> &mut Self {
        self.u8(if ip.is_ipv4() { 4 } else { 6 });
        if let Some(len) = len {
            self.u8(len);
        }
        match ip {
            IpAddr::V4(a) => self.bytes(&a.octets()),
            IpAddr::V6(a) => self.bytes(&a.octets()),
        }
    }
}

/// Takes fields from the front of a byte string.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the front.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Bytes that were not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The error for a field that starts here.
    #[must_use]
    pub fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            what,
            offset: self.offset,
        }
    }

    /// Ends the object.
    ///
    /// # Errors
    /// [`Malformed`] when bytes are left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.remaining() == 0 {
            Ok(())
        } else {
            Err(self.malformed("trailing bytes"))
        }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left; as do all methods below.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self
            .offset
            .checked_add(n)
            .filter(|end| *end <= self.bytes.len())
            .ok_or_else(|| self.malformed(what))?;
        let taken = &self.bytes[self.offset..end];
        self.offset = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes, big-endian.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A [`Writer::name`].
    ///
    /// # Errors
    /// [`Malformed`] when it is cut or no name.
    pub fn name(&mut self, what: &'static str) -> Result<Name, Malformed> {
        let bad = self.malformed(what);
        let len = self.u8(what)?;
        let text = core::str::from_utf8(self.take(usize::from(len), what)?).map_err(|_utf8| bad)?;
        Name::new(text).map_err(|_name| bad)
    }

    /// A [`Writer::counted`] string of at most `max` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when it is cut or longer than `max`.
    pub fn counted(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let bad = self.malformed(what);
        let len = usize::from(self.u16(what)?);
        if len > max {
            return Err(bad);
        }
        self.take(len, what)
    }

    /// A [`Writer::prefix`].
    ///
    /// # Errors
    /// [`Malformed`] for an unknown family, a length above the address's, or host bits that are set.
    pub fn prefix(&mut self, what: &'static str) -> Result<Prefix, Malformed> {
        let bad = self.malformed(what);
        let family = self.u8(what)?;
        let len = self.u8(what)?;
        let ip = self.ip(family, bad, what)?;
        Prefix::new(ip, len).ok_or(bad)
    }

    /// A [`Writer::endpoint`].
    ///
    /// # Errors
    /// [`Malformed`] for an unknown family.
    pub fn endpoint(&mut self, what: &'static str) -> Result<SocketAddr, Malformed> {
        let bad = self.malformed(what);
        let family = self.u8(what)?;
        let ip = self.ip(family, bad, what)?;
        Ok(SocketAddr::new(ip, self.u16(what)?))
    }

    fn ip(&mut self, family: u8, bad: Malformed, what: &'static str) -> Result<IpAddr, Malformed> {
        match family {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>(what)?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>(what)?))),
            _ => Err(bad),
        }
    }
}
