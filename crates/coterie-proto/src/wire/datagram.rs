//! Outside datagrams (WIRE sections 3, 5 and 7): headers only; what is sealed stays sealed.

use super::MAX_CONTROL_DATAGRAM;
use crate::DropReason;

/// Type byte of an initiation.
pub const INITIATION: u8 = 1;
/// Type byte of a response.
pub const RESPONSE: u8 = 2;
/// Type byte of a cookie.
pub const COOKIE: u8 = 3;
/// Type byte of offer, answer and confirm.
pub const PROVISIONAL: u8 = 4;
/// Type byte of a sealed packet.
pub const SEALED: u8 = 5;
/// Type byte of a direct query's question.
pub const QUESTION: u8 = 6;
/// Type byte of a direct query's answer.
pub const ANSWER: u8 = 7;

/// Bytes of `mac1` or `mac2`.
pub const MAC_LEN: usize = 16;
/// Bytes before the sealed text of a sealed packet.
pub const SEALED_HEADER: usize = 16;
/// Bytes before the sealed body of a provisional frame.
pub const PROVISIONAL_HEADER: usize = 8;
/// Bytes that sealing adds to a packet: header and tag.
pub const SEALED_OVERHEAD: usize = SEALED_HEADER + 16;

const INITIATION_MIN: usize = 168;
const RESPONSE_MIN: usize = 108;
const COOKIE_LEN: usize = 52;
const QUERY_MIN: usize = 64;

/// A datagram by type, with its cleartext header fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// Message 1.
    Initiation {
        /// The initiator's index.
        sender: u32,
    },
    /// Message 2.
    Response {
        /// The responder's index.
        sender: u32,
        /// Our index.
        receiver: u32,
    },
    /// A demand for proof of the source address.
    Cookie {
        /// Our index.
        receiver: u32,
    },
    /// Offer, answer or confirm.
    Provisional {
        /// 0, 1 or 2.
        step: Step,
        /// Our index.
        receiver: u32,
    },
    /// A packet or control frame under final keys.
    Sealed(SealedHeader),
    /// A direct query.
    Question,
    /// Its answer.
    Answer,
}

/// Which of the three provisional frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// ML-KEM key, initiator to responder.
    Offer,
    /// ML-KEM ciphertext, back.
    Answer,
    /// Wrapped session secret.
    Confirm,
}

impl Step {
    /// The step's number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Offer => 0,
            Self::Answer => 1,
            Self::Confirm => 2,
        }
    }
}

/// The header of a sealed packet, which is also its AAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedHeader {
    /// The sender's lane.
    pub lane: u8,
    /// Our index.
    pub receiver: u32,
    /// Fresh for each batch.
    pub salt: [u8; 4],
    /// Below 2^48.
    pub counter: u64,
}

impl SealedHeader {
    /// The 16 bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SEALED_HEADER] {
        let mut b = [0; SEALED_HEADER];
        b[0] = SEALED;
        b[1] = self.lane;
        b[2..6].copy_from_slice(&self.receiver.to_be_bytes());
        b[6..10].copy_from_slice(&self.salt);
        b[10..].copy_from_slice(&self.counter.to_be_bytes()[2..]);
        b
    }
}

/// Reads a datagram's header. Never panics; looks at nothing that is sealed.
///
/// # Errors
/// [`DropReason::BadLength`] or [`DropReason::UnknownType`].
pub fn parse(bytes: &[u8]) -> Result<Datagram, DropReason> {
    let (&kind, _) = bytes.split_first().ok_or(DropReason::BadLength)?;
    match kind {
        INITIATION => {
            within(bytes, INITIATION_MIN, MAX_CONTROL_DATAGRAM)?;
            reserved(&bytes[1..4])?;
            Ok(Datagram::Initiation {
                sender: index(bytes, 4)?,
            })
        }
        RESPONSE => {
            within(bytes, RESPONSE_MIN, MAX_CONTROL_DATAGRAM)?;
            reserved(&bytes[1..4])?;
            Ok(Datagram::Response {
                sender: index(bytes, 4)?,
                receiver: u32_at(bytes, 8),
            })
        }
        COOKIE => {
            within(bytes, COOKIE_LEN, COOKIE_LEN)?;
            reserved(&bytes[1..4])?;
            Ok(Datagram::Cookie {
                receiver: u32_at(bytes, 4),
            })
        }
        PROVISIONAL => {
            within(bytes, PROVISIONAL_HEADER + 16, MAX_CONTROL_DATAGRAM)?;
            reserved(&bytes[2..4])?;
            let step = match bytes[1] {
                0 => Step::Offer,
                1 => Step::Answer,
                2 => Step::Confirm,
                _ => return Err(DropReason::UnknownType),
            };
            Ok(Datagram::Provisional {
                step,
                receiver: u32_at(bytes, 4),
            })
        }
        SEALED => {
            within(bytes, SEALED_OVERHEAD + 1, usize::from(u16::MAX))?;
            let mut salt = [0; 4];
            salt.copy_from_slice(&bytes[6..10]);
            let mut counter = [0; 8];
            counter[2..].copy_from_slice(&bytes[10..16]);
            Ok(Datagram::Sealed(SealedHeader {
                lane: bytes[1],
                receiver: u32_at(bytes, 2),
                salt,
                counter: u64::from_be_bytes(counter),
            }))
        }
        QUESTION | ANSWER => {
            within(bytes, QUERY_MIN, MAX_CONTROL_DATAGRAM)?;
            reserved(&bytes[1..4])?;
            Ok(if kind == QUESTION {
                Datagram::Question
            } else {
                Datagram::Answer
            })
        }
        _ => Err(DropReason::UnknownType),
    }
}

/// The 8-byte header of a provisional frame, which is also its AAD.
#[must_use]
pub fn provisional_header(step: Step, receiver: u32) -> [u8; PROVISIONAL_HEADER] {
    let mut b = [0; PROVISIONAL_HEADER];
    b[0] = PROVISIONAL;
    b[1] = step.number();
    b[4..].copy_from_slice(&receiver.to_be_bytes());
    b
}

fn within(bytes: &[u8], min: usize, max: usize) -> Result<(), DropReason> {
    if (min..=max).contains(&bytes.len()) {
        Ok(())
    } else {
        Err(DropReason::BadLength)
    }
}

fn reserved(bytes: &[u8]) -> Result<(), DropReason> {
    if bytes.iter().all(|b| *b == 0) {
        Ok(())
    } else {
        Err(DropReason::UnknownType)
    }
}

/// A sender's index: zero names nothing.
fn index(bytes: &[u8], at: usize) -> Result<u32, DropReason> {
    let index = u32_at(bytes, at);
    if index == 0 {
        Err(DropReason::UnknownType)
    } else {
        Ok(index)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_header_comes_back() {
        let header = SealedHeader {
            lane: 3,
            receiver: 0x0102_0304,
            salt: [5, 6, 7, 8],
            counter: 0x0a0b_0c0d_0e0f,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&[0; 17]);
        assert_eq!(parse(&bytes), Ok(Datagram::Sealed(header)));
        assert_eq!(parse(&bytes[..32]), Err(DropReason::BadLength));
    }

    #[test]
    fn lengths_types_and_reserved_bytes_are_checked() {
        assert_eq!(parse(&[]), Err(DropReason::BadLength));
        assert_eq!(parse(&[0; 200]), Err(DropReason::UnknownType));
        assert_eq!(parse(&[8; 200]), Err(DropReason::UnknownType));
        let mut m = vec![0; 168];
        m[0] = INITIATION;
        assert_eq!(parse(&m), Err(DropReason::UnknownType), "index zero");
        m[7] = 9;
        assert_eq!(parse(&m), Ok(Datagram::Initiation { sender: 9 }));
        assert_eq!(parse(&m[..167]), Err(DropReason::BadLength));
        m[2] = 1;
        assert_eq!(parse(&m), Err(DropReason::UnknownType));
        let mut p = provisional_header(Step::Confirm, 9).to_vec();
        p.extend_from_slice(&[0; 56]);
        assert_eq!(
            parse(&p),
            Ok(Datagram::Provisional {
                step: Step::Confirm,
                receiver: 9
            })
        );
        p[1] = 3;
        assert_eq!(parse(&p), Err(DropReason::UnknownType));
    }
}
