//! Changes of true values, and the files around them made again.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coterie_control::bundle::{ArmourError, Keys, KeysError};
use coterie_crypto::hash;

/// A true value, changed as `edits` say: place (u16), how much goes (u8), how much comes (u8), what comes.
pub(crate) fn edited(original: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let mut value = original.to_vec();
    while let [high, low, goes, comes, rest @ ..] = edits {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % (value.len() + 1);
        let end = (at + usize::from(*goes)).min(value.len());
        let (new, rest) = rest.split_at(rest.len().min(usize::from(*comes)));
        value.splice(at..end, new.iter().copied());
        edits = rest;
    }
    value
}

/// Lines of base64 between header lines and the last line.
pub(crate) fn body_of(text: &str) -> Vec<u8> {
    let (_, rest) = text.split_once("\n\n").expect("a true file");
    let lines: String = rest.lines().take_while(|line| !line.starts_with('-')).collect();
    STANDARD.decode(lines).expect("a true file")
}

/// The file of `body`. Header lines are a function of the body: those of the true file `like`, or what the reader says that
/// it expected.
pub(crate) fn armoured(label: &str, body: &[u8], like: &str, expected: impl Fn(&[u8]) -> Option<String>) -> String {
    let mut base64 = String::new();
    for chunk in body.chunks(48) {
        STANDARD.encode_string(chunk, &mut base64);
        base64.push('\n');
    }
    let file = |headers: &str| format!("-----BEGIN {label}-----\n{headers}\n{base64}-----END {label}-----\n");
    let (front, _) = like.split_once("\n\n").unwrap_or_default();
    if let Some((_, headers)) = front.split_once('\n') {
        let text = file(&format!("{headers}\n"));
        if expected(text.as_bytes()).is_none() {
            return text;
        }
    }
    let mut headers = String::new();
    for _ in 0..8 {
        let text = file(&headers);
        match expected(text.as_bytes()) {
            Some(line) => headers = headers + &line + "\n",
            None => return text,
        }
    }
    panic!("at most six header lines");
}

pub(crate) fn expected(error: &ArmourError) -> Option<String> {
    if let ArmourError::Header { expected, .. } = error {
        Some(expected.clone())
    } else {
        None
    }
}

/// Keys with their checksum made anew.
pub(crate) fn keys_file(mut body: Vec<u8>, like: &str) -> String {
    if let Some((before, sum)) = body.split_last_chunk_mut::<8>() {
        sum.copy_from_slice(&hash::sha256(&[b"coterie/1 keys", before])[..8]);
    }
    armoured("COTERIE KEYS", &body, like, |text| match Keys::parse(text) {
        Err(KeysError::Armour(error)) => expected(&error),
        Ok(_) | Err(_) => None,
    })
}
