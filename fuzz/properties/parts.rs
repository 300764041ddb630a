//! What must hold of the decoders of a bundle's parts, each alone: behind the seals and signatures that a whole bundle has
//! around them.

use coterie_control::bundle::{
    CertificateError, MAX_ENTRIES, MAX_SERVERS, MAX_SUCCESSIONS,
    parts::{self, Certificate},
};
use coterie_model::Writer;

use super::{
    control::Property,
    entry,
    remake::edited,
    site::{NOW, Site, THE_SITE},
};

/// Every target of this file, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[
    ("bundle_body", bundle_body),
    ("certificate", certificate),
    ("wrapped_keys", wrapped_keys),
    ("key_encryption_key", key_encryption_key),
    ("view", view),
];

/// A bundle has one encoding: as the bytes stand, and with the length that they have.
pub(crate) fn bundle_body(data: &[u8]) {
    let mut right = data.to_vec();
    let length = u32::try_from(right.len()).expect("a short input");
    if let Some(field) = right.get_mut(1..5) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    for bytes in [data, &right] {
        match parts::decode_bundle(bytes) {
            Ok((front, content)) => {
                let (body, _signature) = bytes.split_last_chunk::<64>().expect("a signature");
                assert_eq!(parts::encode_body(&front, &content), body);
                assert!(!content.template.suites.is_empty() && content.template.exclude.len() <= 512);
                assert!(front.successions.len() <= MAX_SUCCESSIONS && content.servers.len() <= MAX_SERVERS);
                assert!(content.gateways.len() <= 16 && content.pools.len() <= 16 && content.mtu != Some(0));
                assert!(content.statements.len() <= 64 && content.manifests.len() <= 256 && content.views.len() <= 64);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// The wrapped keys of a certificate have one encoding.
pub(crate) fn wrapped_keys(data: &[u8]) {
    if let Ok(delivery) = parts::decode_delivery(data) {
        assert_eq!(parts::encode_delivery(&delivery), data);
        assert!(delivery.sealed.len() <= 4096);
    }
}

/// What is sealed with the key-encryption key has one encoding.
pub(crate) fn key_encryption_key(data: &[u8]) {
    if let Ok((kek, labels)) = parts::decode_key_encryption_key(data) {
        assert_eq!(*parts::encode_key_encryption_key(&kek, &labels), data);
    }
}

/// The text of a view has one encoding, and its lists are bounded.
pub(crate) fn view(data: &[u8]) {
    let Ok(entries) = parts::decode_view(data) else { return };
    assert!(entries.len() <= MAX_ENTRIES);
    let mut w = Writer::new();
    w.u16(u16::try_from(entries.len()).expect("bounded above"));
    entries.iter().for_each(|e| entry::write(e, &mut w));
    assert_eq!(w.into_bytes(), data);
}

/// A certificate is believed if the root signed it and it says what it must. Which certificate, whether it is signed again
/// and whether signatures are checked stands in the first byte; then, what is changed of it.
pub(crate) fn certificate(data: &[u8]) {
    let site = &*THE_SITE;
    let (first, rest) = data.split_first().unwrap_or((&3, &[]));
    let (sign, verify) = (first & 4 != 0, first & 8 != 0);
    let mut der = match site.certificates.get(usize::from(first % 4)) {
        Some(original) => changed(original, rest),
        None => rest.to_vec(),
    };
    let signed = sign && sign_again(site, &mut der);
    let decoded = match Certificate::decode(&der) {
        Ok(decoded) => decoded,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(check(site, &der), Err(error));
            return;
        }
    };
    let own = site.identity.verifying_key();
    let says = decoded.says(&site.uri, &own, NOW);
    let fits = decoded.key() == own.0 && decoded.uris() == [&site.uri] && NOW <= decoded.not_after();
    assert_eq!(says.is_ok(), fits);
    if let Err(error) = &says {
        assert!(!error.to_string().is_empty());
    }
    let wrapped = decoded.wrapped_keys();
    if !verify {
        return;
    }
    let checked = check(site, &der);
    if checked == Err(CertificateError::Signature) {
        assert!(!signed, "what the root signs is what is verified");
        return;
    }
    assert_eq!(checked, says.and(wrapped));
    let claims = |c: &Certificate<'_>| {
        let uris: Vec<String> = c.uris().into_iter().map(str::to_owned).collect();
        (c.key().to_vec(), uris, c.not_after(), c.wrapped_keys())
    };
    let originals = site.certificates.iter();
    let mut genuine = originals.map(|der| claims(&Certificate::decode(der).expect("a true certificate")));
    assert!(signed || genuine.any(|of| of == claims(&decoded)));
}

fn check(site: &Site, der: &[u8]) -> Result<Option<Vec<u8>>, CertificateError> {
    let own = site.identity.verifying_key();
    parts::check_certificate(der, &site.root.verifying_key(), &site.uri, &own, NOW)
}

/// DER changed element by element, with the lengths around them made right: what is done (u8), to which element (u8, in
/// order of their starts), with how many bytes (u8), the bytes. What is longer than a bundle may hold is changed no more.
fn changed(original: &[u8], mut changes: &[u8]) -> Vec<u8> {
    let mut der = original.to_vec();
    while let [what, which, length, rest @ ..] = changes
        && der.len() <= 16 * 1024
    {
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let change = |tag: u8, content: &[u8]| match what % 5 {
            0 => element(tag, &edited(content, bytes)),
            1 => Vec::new(),
            2 => [element(tag, content), element(tag, content)].concat(),
            3 => element(tag, bytes),
            _ => element(bytes.first().copied().unwrap_or(tag), content),
        };
        der = replaced(&der, &mut usize::from(*which), &change);
        changes = rest;
    }
    der
}

fn replaced(der: &[u8], number: &mut usize, change: &dyn Fn(u8, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let Some(elements) = elements(der) else {
        return der.to_vec();
    };
    let mut out = Vec::with_capacity(der.len());
    for (tag, content) in elements {
        let Some(left) = number.checked_sub(1) else {
            out.extend(change(tag, content));
            *number = usize::MAX;
            continue;
        };
        *number = left;
        // Octet strings of a certificate hold DER.
        let inner = if tag & 0x20 != 0 || tag == 4 {
            replaced(content, number, change)
        } else {
            content.to_vec()
        };
        out.extend(element(tag, &inner));
    }
    out
}

/// Tags and contents of what stands one behind the other; `None` unless that is all of the bytes.
fn elements(mut der: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut all = Vec::new();
    while let [tag, rest @ ..] = der {
        let (length, rest) = match rest {
            [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
            [0x81, length, rest @ ..] => (usize::from(*length), rest),
            [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        all.push((*tag, content));
        der = rest;
    }
    Some(all)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a certificate is short");
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, content].concat()
}

/// Puts the root's signature over the first element into the last, if it is a certificate in outline.
fn sign_again(site: &Site, der: &mut Vec<u8>) -> bool {
    let whole = elements(der);
    let Some([(0x30, outer)]) = whole.as_deref() else {
        return false;
    };
    let inner = elements(outer);
    let Some([(tag, signed), (algorithm, identifier), (3, _)]) = inner.as_deref() else {
        return false;
    };
    let signed = element(*tag, signed);
    let signature = rcgen::SigningKey::sign(&site.root_pair, &signed).expect("a signature");
    let content = [
        signed,
        element(*algorithm, identifier),
        element(3, &[&[0], &signature[..]].concat()),
    ]
    .concat();
    *der = element(0x30, &content);
    true
}
