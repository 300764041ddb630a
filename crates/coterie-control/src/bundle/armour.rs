//! Binary objects as files that people can look at, mail and paste: header lines, base64, first and last line.
//!
//! An object has exactly one such text (but for the line ends, LF or CR LF, and the last of them): header lines are a
//! function of the object and are compared, lines are 64 characters, base64 is canonical. So no byte of the file can be
//! changed without notice, although only the object inside is signed.

use base64::{DecodeError, DecodeSliceError, Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Longest file that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Characters of a full line, and the bytes that they stand for.
const LINE: usize = 64;
const LINE_BYTES: usize = 48;

/// What is wrong with the file around a binary object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmourError {
    /// Nothing but white space.
    #[error("line 1, column 1: the file is empty, expected `-----BEGIN {label}-----`")]
    Empty {
        /// What was expected.
        label: &'static str,
    },
    /// Longer than [`MAX_BYTES`].
    #[error("the file has {bytes} bytes, more than the {MAX_BYTES} that are read")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The first line is another.
    #[error(
        "line 1, column {column}: this is no {}: expected `-----BEGIN {label}-----`, found `{found}`",
        label.to_lowercase()
    )]
    Begin {
        /// What was expected.
        label: &'static str,
        /// Where the line differs, from 1.
        column: usize,
        /// The line, cut.
        found: String,
    },
    /// A header line that says something else than the object.
    #[error("line {line}, column {column}: expected `{expected}`, found `{found}`: the file was edited")]
    Header {
        /// The line, from 1.
        line: usize,
        /// Where it differs, from 1.
        column: usize,
        /// What the object says.
        expected: String,
        /// The line, cut.
        found: String,
    },
    /// A character that is no base64, or not there.
    #[error("line {line}, column {column}: {found} is not base64 here")]
    Base64 {
        /// The line, from 1.
        line: usize,
        /// The character, from 1.
        column: usize,
        /// The character in words.
        found: String,
    },
    /// A line that is shorter or longer than all others.
    #[error(
        "line {line}, column {column}: a line has {LINE} characters, this has {length}: part of it is missing or doubled"
    )]
    LineLength {
        /// The line, from 1.
        line: usize,
        /// Where it should have ended or goes on, from 1.
        column: usize,
        /// What it has.
        length: usize,
    },
    /// The last line is missing.
    #[error("line {line}, column {column}: the file ends without `-----END {label}-----`: it was truncated")]
    Truncated {
        /// What was expected.
        label: &'static str,
        /// The last line that is there, from 1.
        line: usize,
        /// Behind its last character, from 1.
        column: usize,
    },
    /// Something follows the last line.
    #[error("line {line}, column 1: nothing may follow `-----END {label}-----`")]
    Trailing {
        /// What was expected.
        label: &'static str,
        /// The line, from 1.
        line: usize,
    },
}

/// A file taken apart: header lines, not to be trusted, and the object.
#[derive(Debug)]
pub(crate) struct Armoured<'a> {
    /// Header lines in order; the first is line 2.
    headers: Vec<&'a [u8]>,
    /// The object.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Header lines of an object: key and value, in order.
pub(crate) type Headers = Vec<(&'static str, String)>;

/// The file of `body`. Values of headers must be printable and hold no line break.
pub(crate) fn encode(label: &str, headers: &Headers, body: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512 + body.len() * 3 / 2));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (key, value) in headers {
        text.push_str(&format!("{key}: {value}\n"));
    }
    text.push('\n');
    for chunk in body.chunks(LINE_BYTES) {
        STANDARD.encode_string(chunk, &mut text);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Takes a file apart.
pub(crate) fn decode<'a>(label: &'static str, bytes: &'a [u8]) -> Result<Armoured<'a>, ArmourError> {
    if bytes.len() > MAX_BYTES {
        return Err(ArmourError::TooLarge { bytes: bytes.len() });
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ArmourError::Empty { label });
    }
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut lines = Lines {
        rest: Some(bytes),
        number: 0,
        end_column: 1,
    };
    let first = lines.next().unwrap_or_default();
    if first != begin.as_bytes() {
        let whole = lines.rest.is_some() || !begin.as_bytes().starts_with(first);
        return Err(if whole {
            ArmourError::Begin {
                label,
                column: first_difference(first, begin.as_bytes()),
                found: shown(first),
            }
        } else {
            lines.truncated(label)
        });
    }
    let mut headers = Vec::new();
    loop {
        match lines.next() {
            None => return Err(lines.truncated(label)),
            Some(b"") if lines.rest.is_none() => return Err(lines.truncated(label)),
            Some(b"") => break,
            Some(header) => headers.push(header),
        }
    }
    let mut body = Zeroizing::new(Vec::with_capacity(bytes.len() / 4 * 3));
    loop {
        let Some(line) = lines.next() else {
            return Err(lines.truncated(label));
        };
        if line == end.as_bytes() {
            break;
        }
        let Some(rest) = lines.rest else {
            return Err(lines.truncated(label));
        };
        let is_last = rest.starts_with(b"-----END") || b"-----END".starts_with(rest);
        if line.is_empty() || line.len() > LINE || (line.len() < LINE && !is_last) {
            return Err(wrong_length(line, lines.number));
        }
        decode_line(line, lines.number, is_last, &mut body)?;
    }
    match lines.next() {
        None => Ok(Armoured { headers, body }),
        Some(b"") if lines.rest.is_none() => Ok(Armoured { headers, body }),
        Some(_) => Err(ArmourError::Trailing {
            label,
            line: lines.number,
        }),
    }
}

impl Armoured<'_> {
    /// Checks that the header lines are those of the object.
    pub(crate) fn check_headers(&self, expected: &Headers) -> Result<(), ArmourError> {
        let wanted: Vec<String> = expected.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        for index in 0..wanted.len().max(self.headers.len()) {
            let expected = wanted.get(index).map_or("", String::as_str);
            let found = self.headers.get(index).copied().unwrap_or_default();
            if found != expected.as_bytes() {
                return Err(ArmourError::Header {
                    line: index + 2,
                    column: first_difference(found, expected.as_bytes()),
                    expected: expected.to_owned(),
                    found: shown(found),
                });
            }
        }
        Ok(())
    }
}

fn wrong_length(line: &[u8], number: usize) -> ArmourError {
    // A character that is no base64 explains more than a length.
    match line
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=')))
    {
        Some(at) => ArmourError::Base64 {
            line: number,
            column: at + 1,
            found: character(line.get(at).copied()),
        },
        None => ArmourError::LineLength {
            line: number,
            column: line.len().min(LINE) + 1,
            length: line.len(),
        },
    }
}

fn decode_line(line: &[u8], number: usize, is_last: bool, body: &mut Vec<u8>) -> Result<(), ArmourError> {
    let bad = |column: usize| ArmourError::Base64 {
        line: number,
        column,
        found: character(line.get(column - 1).copied()),
    };
    let mut room = Zeroizing::new([0; LINE_BYTES]);
    let length = STANDARD
        .decode_slice(line, &mut room[..])
        .map_err(|error| match error {
            DecodeSliceError::DecodeError(DecodeError::InvalidByte(offset, _)) => bad(offset + 1),
            DecodeSliceError::DecodeError(DecodeError::InvalidLastSymbol { offset, .. }) => bad(offset + 1),
            DecodeSliceError::DecodeError(DecodeError::InvalidLength(_) | DecodeError::InvalidPadding)
            | DecodeSliceError::OutputSliceTooSmall => bad(line.len() + 1),
        })?;
    if length < LINE_BYTES && !is_last {
        return Err(bad(line
            .iter()
            .position(|b| *b == b'=')
            .map_or(line.len(), |at| at + 1)));
    }
    body.extend_from_slice(&room[..length]);
    Ok(())
}

/// Lines of a file, without their ends; the part behind the last line end is a line too.
struct Lines<'a> {
    rest: Option<&'a [u8]>,
    number: usize,
    end_column: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (line, rest) = match rest.iter().position(|b| *b == b'\n') {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let line = line.strip_suffix(b"\r").filter(|_| rest.is_some()).unwrap_or(line);
        self.rest = rest;
        // The empty piece behind the last line end is no line to a reader.
        if rest.is_some() || !line.is_empty() {
            self.number += 1;
            self.end_column = line.len() + 1;
        }
        Some(line)
    }

    fn truncated(&self, label: &'static str) -> ArmourError {
        ArmourError::Truncated {
            label,
            line: self.number.max(1),
            column: self.end_column,
        }
    }
}

fn first_difference(found: &[u8], expected: &[u8]) -> usize {
    1 + found.iter().zip(expected).take_while(|(a, b)| a == b).count()
}

fn shown(line: &[u8]) -> String {
    const SHOWN: usize = 48;
    let mut text: String = line
        .iter()
        .take(SHOWN)
        .flat_map(|b| core::ascii::escape_default(*b))
        .map(char::from)
        .collect();
    if line.len() > SHOWN {
        text.push('…');
    }
    text
}

fn character(byte: Option<u8>) -> String {
    match byte {
        None => "the end of the line".to_owned(),
        Some(b) => format!("`{}`", core::ascii::escape_default(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "COTERIE TEST";

    fn text(length: usize) -> String {
        let body: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0]).collect();
        encode(LABEL, &vec![("Name", "a".to_owned())], &body).to_string()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, ArmourError> {
        let armoured = decode(LABEL, bytes)?;
        armoured.check_headers(&vec![("Name", "a".to_owned())])?;
        Ok(armoured.body.to_vec())
    }

    #[test]
    fn comes_back_whatever_its_length_and_line_ends() {
        for length in [0, 1, 2, 3, 47, 48, 49, 96, 1000] {
            let text = text(length);
            let back = read(text.as_bytes()).unwrap();
            assert_eq!(back.len(), length);
            assert_eq!(read(text.replace('\n', "\r\n").as_bytes()).unwrap(), back);
            assert_eq!(read(text.trim_end().as_bytes()).unwrap(), back);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let text = text(100).into_bytes();
        let body = read(&text).unwrap();
        for at in 0..text.len() {
            for new in [0, b'\n', b'\r', b' ', b'=', b'A', text[at] ^ 1, text[at] ^ 0x20] {
                let mut bad = text.clone();
                bad[at] = new;
                // The last line end is the one byte that carries nothing.
                if bad != text && at + 1 != text.len() {
                    assert!(read(&bad).map_or(true, |b| b != body), "byte {at} as {new}");
                }
            }
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let text = text(100);
        for length in 1..text.len() - 1 {
            let error = read(&text.as_bytes()[..length]).unwrap_err();
            assert!(matches!(error, ArmourError::Truncated { .. }), "{length}: {error}");
        }
    }

    #[test]
    fn errors_point_at_the_place() {
        let place = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        let text = text(100);
        assert_eq!(
            place(b" \n"),
            "line 1, column 1: the file is empty, expected `-----BEGIN COTERIE TEST-----`"
        );
        assert_eq!(
            place(b"-----BEGIN CERTIFICATE-----\n"),
            "line 1, column 13: this is no coterie test: expected `-----BEGIN COTERIE TEST-----`, found `-----BEGIN CERTIFICATE-----`"
        );
        assert_eq!(
            place(text.replace("Name: a", "Name: b").as_bytes()),
            "line 2, column 7: expected `Name: a`, found `Name: b`: the file was edited"
        );
        assert_eq!(
            place(text.replacen("AAEC", "AA!C", 1).as_bytes()),
            "line 4, column 3: `!` is not base64 here"
        );
        assert_eq!(
            place(text.replacen("AAEC", "AAE", 1).as_bytes()),
            "line 4, column 64: a line has 64 characters, this has 63: part of it is missing or doubled"
        );
        assert_eq!(
            place((text.clone() + "x").as_bytes()),
            "line 8, column 1: nothing may follow `-----END COTERIE TEST-----`"
        );
    }
}
