//! Bytes and their meaning: outside datagrams, control frames, inside packets. Parsed once; nothing here decides.

pub mod control;
pub mod datagram;
pub mod ip;

/// The most UDP payload of a handshake, control or query datagram: an IPv6 path of 1,280 less 48 bytes of headers.
pub const MAX_CONTROL_DATAGRAM: usize = 1232;
