//! Control frames: what two nodes say to each other inside a session (WIRE section 6).

use coterie_crypto::{
    kem::{CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN},
    wrap::WRAPPED_LEN,
};
use coterie_model::{Era, Malformed, Reader, Revision, Writer};

/// Most bytes of a difference in one frame.
pub const DIFFERENCE_CHUNK: usize = 1024;
/// Most bytes of a visitor's request or answer in one frame.
pub const CARRY_CHUNK: usize = 1024;

/// A control frame, borrowed from the opened text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// Nothing, to be heard.
    Keepalive,
    /// Asks for the token back.
    Probe([u8; 8]),
    /// Gives it back.
    ProbeReply([u8; 8]),
    /// The sender erases this session now.
    Close,
    /// A whole message 1.
    RekeyInitiation(&'a [u8]),
    /// A whole message 2.
    RekeyResponse(&'a [u8]),
    /// The ML-KEM key, to the handshake of this index.
    RekeyOffer(u32, &'a [u8; ENCAPSULATION_KEY_LEN]),
    /// The ML-KEM ciphertext.
    RekeyAnswer(u32, &'a [u8; CIPHERTEXT_LEN]),
    /// The wrapped session secret.
    RekeyConfirm(u32, &'a [u8; WRAPPED_LEN]),
    /// What the sender has; asks for what is newer.
    DifferenceRequest(Era, Revision),
    /// A piece of revocations and head.
    Difference {
        /// Names the transfer.
        transfer: u32,
        /// Where the piece starts.
        offset: u32,
        /// Bytes of the whole.
        total: u32,
        /// The piece.
        bytes: &'a [u8],
    },
    /// A newer statement of the sender.
    Statement(&'a [u8]),
    /// A piece of a visitor's request, or of the answer to it.
    Carry {
        /// Where the piece starts.
        offset: u32,
        /// Bytes of the whole.
        total: u32,
        /// The piece.
        bytes: &'a [u8],
    },
    /// All bytes before this one have come.
    Carried(u32),
}

impl<'a> Control<'a> {
    /// Parses an opened text that starts with a byte below 0x10.
    ///
    /// # Errors
    /// [`Malformed`] for an unknown frame or one that is cut or too long.
    pub fn parse(text: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(text);
        let unknown = r.malformed("control frame");
        let frame = match r.u8("control frame")? {
            1 => Self::Keepalive,
            2 => Self::Probe(r.array("token")?),
            3 => Self::ProbeReply(r.array("token")?),
            4 => Self::Close,
            5 => Self::RekeyInitiation(rest(&mut r)?),
            6 => Self::RekeyResponse(rest(&mut r)?),
            7 => Self::RekeyOffer(r.u32("index")?, exact(&mut r)?),
            8 => Self::RekeyAnswer(r.u32("index")?, exact(&mut r)?),
            9 => Self::RekeyConfirm(r.u32("index")?, exact(&mut r)?),
            10 => Self::DifferenceRequest(r.u64("era")?, r.u64("revision")?),
            11 => {
                let (transfer, offset, total) = (r.u32("transfer")?, r.u32("offset")?, r.u32("total")?);
                let bytes = rest(&mut r)?;
                if bytes.is_empty() || bytes.len() > DIFFERENCE_CHUNK {
                    return Err(unknown);
                }
                Self::Difference {
                    transfer,
                    offset,
                    total,
                    bytes,
                }
            }
            12 => Self::Statement(rest(&mut r)?),
            13 => {
                let (offset, total) = (r.u32("offset")?, r.u32("total")?);
                let bytes = rest(&mut r)?;
                if bytes.is_empty() || bytes.len() > CARRY_CHUNK {
                    return Err(unknown);
                }
                Self::Carry { offset, total, bytes }
            }
            14 => Self::Carried(r.u32("offset")?),
            _ => return Err(unknown),
        };
        r.finish()?;
        Ok(frame)
    }

    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match *self {
            Self::Keepalive => w.u8(1),
            Self::Probe(token) => w.u8(2).bytes(&token),
            Self::ProbeReply(token) => w.u8(3).bytes(&token),
            Self::Close => w.u8(4),
            Self::RekeyInitiation(m) => w.u8(5).bytes(m),
            Self::RekeyResponse(m) => w.u8(6).bytes(m),
            Self::RekeyOffer(index, ek) => w.u8(7).u32(index).bytes(ek),
            Self::RekeyAnswer(index, ct) => w.u8(8).u32(index).bytes(ct),
            Self::RekeyConfirm(index, wrapped) => w.u8(9).u32(index).bytes(wrapped),
            Self::DifferenceRequest(era, revision) => w.u8(10).u64(era).u64(revision),
            Self::Difference {
                transfer,
                offset,
                total,
                bytes,
            } => w.u8(11).u32(transfer).u32(offset).u32(total).bytes(bytes),
            Self::Statement(s) => w.u8(12).bytes(s),
            Self::Carry { offset, total, bytes } => w.u8(13).u32(offset).u32(total).bytes(bytes),
            Self::Carried(offset) => w.u8(14).u32(offset),
        };
        w.into_bytes()
    }
}

fn rest<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    r.take(r.remaining(), "body")
}

fn exact<'a, const N: usize>(r: &mut Reader<'a>) -> Result<&'a [u8; N], Malformed> {
    let bad = r.malformed("body");
    r.take(N, "body")?.try_into().map_err(|_length| bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_comes_back_and_no_other_does() {
        let (ek, ct, wrapped) = ([1; ENCAPSULATION_KEY_LEN], [2; CIPHERTEXT_LEN], [3; WRAPPED_LEN]);
        let frames = [
            Control::Keepalive,
            Control::Probe([1; 8]),
            Control::ProbeReply([2; 8]),
            Control::Close,
            Control::RekeyInitiation(&[9; 300]),
            Control::RekeyResponse(&[8; 300]),
            Control::RekeyOffer(1, &ek),
            Control::RekeyAnswer(2, &ct),
            Control::RekeyConfirm(3, &wrapped),
            Control::DifferenceRequest(4, 5),
            Control::Difference {
                transfer: 1,
                offset: 2,
                total: 3,
                bytes: &[7; 1024],
            },
            Control::Statement(&[6; 200]),
            Control::Carry {
                offset: 1,
                total: 2,
                bytes: &[5; 1024],
            },
            Control::Carried(9),
        ];
        for frame in frames {
            let bytes = frame.to_bytes();
            assert_eq!(Control::parse(&bytes), Ok(frame));
            assert!(bytes.len() + crate::wire::datagram::SEALED_OVERHEAD <= crate::wire::MAX_CONTROL_DATAGRAM);
        }
        assert!(Control::parse(&[]).is_err());
        assert!(Control::parse(&[0]).is_err());
        assert!(Control::parse(&[13, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(Control::parse(&[15]).is_err());
        assert!(Control::parse(&[1, 0]).is_err());
        assert!(Control::parse(&[11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
