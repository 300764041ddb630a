//! What must hold of the decoders of files, whatever the bytes. One function for each target of the same name.
//!
//! What a signature or checksum would keep the fuzzer out of is signed again after it was changed: an input says what is
//! changed of a true file. So the corpus stays of use when the true file changes.

use coterie_control::{
    bundle::{Bundle, BundleError, Keys, Opened, Request, RequestError, Succession, parts, root_hash},
    file,
};
use coterie_crypto::aead::{Key, Suite};
use coterie_model::{Authority, SignedObject as _};

use super::{
    remake::{armoured, body_of, edited, expected, keys_file},
    site::{NOW, Site, THE_SITE},
};

/// A property of some bytes.
pub(crate) type Property = fn(&[u8]);

/// Every target of this crate, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[
    ("enclave_file", enclave_file),
    ("diagnostics", diagnostics),
    ("bundle", bundle),
    ("request", request),
    ("keys", keys),
];

/// A file is accepted whole, or every complaint points into it, in order, in words that can be shown. The empty input stands
/// for a file that is too long to be read.
pub(crate) fn enclave_file(data: &[u8]) {
    if data.is_empty() {
        let long = " ".repeat(file::MAX_BYTES + 1);
        let refused = [file::parse(&long), file::parse_bytes(long.as_bytes())];
        let one = |read: &Result<_, file::Diagnostics>| read.as_ref().is_err_and(|found| found.iter().len() == 1);
        assert!(refused.iter().all(one));
    }
    let read = file::parse_bytes(data);
    let diagnostics = match &read {
        Ok(accepted) => {
            assert!(!accepted.warnings.has_errors());
            for member in accepted.members.values() {
                let template = accepted.templates.get(&member.template).expect("its template");
                assert!(
                    template
                        .communities
                        .iter()
                        .all(|c| accepted.communities.contains_key(c))
                );
                assert!(member.communities.iter().all(|c| accepted.communities.contains_key(c)));
                assert!(member.communities.len() <= file::MAX_COMMUNITIES);
                assert!(member.addresses.len() <= file::MAX_ADDRESSES);
            }
            matching(accepted);
            let few = || accepted.members.keys().take(4);
            for from in few() {
                for to in few() {
                    assert_eq!(accepted.explain(from, to).is_ok(), from != to);
                }
            }
            &accepted.warnings
        }
        Err(diagnostics) => {
            assert!(diagnostics.has_errors());
            diagnostics
        }
    };
    let lines = data.split(|b| *b == b'\n').count();
    assert!(diagnostics.iter().len() <= file::MAX_DIAGNOSTICS);
    let mut before = (0, 0);
    for item in diagnostics.iter() {
        assert!((1..=lines.max(1)).contains(&item.line) && item.column >= 1, "{item:?}");
        assert!(!item.message.is_empty() && !item.remedy.is_empty(), "{item:?}");
        assert!(before <= (item.line, item.column), "in order of place: {item:?}");
        before = (item.line, item.column);
        let places = item.related.iter().map(|related| &related.label);
        let words = [&item.path, &item.message, &item.label, &item.remedy];
        let words = words.into_iter().chain(places).chain(&item.notes);
        words.for_each(|text: &String| shown(text));
    }
}

/// Whatever a file holds, what is wrong with it can be shown on a terminal with the lines concerned.
pub(crate) fn diagnostics(data: &[u8]) {
    let diagnostics = file::parse_bytes(data).map_or_else(|found| found, |accepted| accepted.warnings);
    let text = diagnostics.render("enclave.toml", file::Style::Plain);
    assert_eq!(text.is_empty(), diagnostics.is_empty() && diagnostics.omitted() == 0);
    shown(&text);
}

/// Nothing of a file reaches a terminal as a control.
fn shown(text: &str) {
    let directs = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let printable = |c: char| c == '\n' || !(c.is_control() || directs(c));
    assert!(text.chars().all(printable), "a control: {text:?}");
}

/// What is not known of a machine fits no selector; what a test says of itself can be read again.
fn matching(accepted: &file::EnclaveFile) {
    let known = file::Facts {
        name: Some("web-1".into()),
        labels: [("role".to_owned(), "web".to_owned())].into(),
        mac: vec![[0x52, 0x54, 0, 0x12, 0x34, 0x56]],
        uuid: Some(file::Uuid::from_bytes([0x4c; 16])),
        cpus: Some(4),
        memory: Some(8 << 30),
    };
    for selectors in accepted.templates.values().filter_map(|t| t.matching.as_ref()) {
        assert!(!selectors.matches(&file::Facts::default()));
        let fits = selectors.matches(&known);
        let by_name = selectors.name.as_ref().is_none_or(|name| name.matches("web-1"));
        let by_cpus = selectors.cpus.is_none_or(|cpus| cpus.contains(4));
        assert!(!fits || (by_name && by_cpus));
        for uuid in &selectors.uuid {
            assert_eq!(uuid.to_string().len(), 36);
        }
        for mac in &selectors.mac {
            let text = mac.to_string();
            assert!(text.len() == 17 || text.ends_with(":*"), "{text}");
        }
    }
    for test in &accepted.tests {
        let (from, to) = (test.from.to_string(), test.to.to_string());
        assert!(!from.is_empty() && to.starts_with(&test.to.members.to_string()));
    }
}

/// How an input is to be read.
enum Input {
    /// A whole file.
    File(Vec<u8>),
    /// What is inside of one, to be signed again.
    Body(Vec<u8>),
    /// A change further inside.
    Inner(u8, Vec<u8>),
}

fn input(data: &[u8], text: &str, body: &[u8]) -> Input {
    match data.split_first() {
        None => Input::File(vec![]),
        Some((kind, rest)) => match kind % 8 {
            0 => Input::Body(edited(body, rest)),
            1 => Input::File(edited(text.as_bytes(), rest)),
            2 => Input::File(rest.to_vec()),
            _ => Input::Inner(kind % 8, rest.to_vec()),
        },
    }
}

/// The one spelling of a file whose line ends do not matter.
fn plain(text: &[u8]) -> String {
    let text = String::from_utf8(text.to_vec()).expect("an accepted file is ASCII");
    text.replace("\r\n", "\n").trim_end_matches('\n').to_owned()
}

/// A bundle opens only on its machine, and what it gives is consistent.
pub(crate) fn bundle(data: &[u8]) {
    let site = &*THE_SITE;
    let bytes = match input(data, &site.bundle_text, &site.bundle_body) {
        Input::File(bytes) => bytes,
        Input::Body(body) => signed_bundle(site, body).into_bytes(),
        Input::Inner(3, wrapped) => signed_bundle(site, with_wrapped_keys(site, &wrapped)).into_bytes(),
        Input::Inner(6, entries) => signed_bundle(site, with_view(site, &entries)).into_bytes(),
        Input::Inner(5, cut) => signed_bundle(site, cut_short(site, &cut)).into_bytes(),
        Input::Inner(_, object) => signed_bundle(site, with_object(site, &object)).into_bytes(),
    };
    open(site, &bytes);
}

/// The front of the true bundle, as long as two bytes say, edited, with a signature behind it.
fn cut_short(site: &Site, data: &[u8]) -> Vec<u8> {
    let (length, edits) = data
        .split_first_chunk()
        .map_or((0, data), |(l, rest)| (u16::from_be_bytes(*l), rest));
    let mut body = edited(&site.bundle_body, edits);
    body.truncate(usize::from(length));
    body.extend_from_slice(&[0; 64]);
    body
}

/// The true bundle with one of its signed objects changed and signed again: which, then the edits.
fn with_object(site: &Site, data: &[u8]) -> Vec<u8> {
    let (which, edits) = data.split_first().unwrap_or((&0, &[]));
    let (label, body, place) = &site.objects[usize::from(*which) % site.objects.len()];
    let mut object = edited(body, edits);
    object.truncate(1100);
    let key = match *label {
        Authority::LABEL => &site.root,
        Succession::LABEL => &site.earlier,
        _ => &site.statement_key,
    };
    let signature = key.sign(label, &object);
    object.extend_from_slice(&signature);
    let length = u16::try_from(object.len()).expect("cut above").to_be_bytes();
    let mut bundle = site.bundle_body.clone();
    bundle.splice(place.clone(), length.into_iter().chain(object));
    bundle
}

/// The true bundle with other wrapped keys in its certificate, of the same length, signed again by the root.
fn with_wrapped_keys(site: &Site, edits: &[u8]) -> Vec<u8> {
    let mut bundle = site.bundle_body.clone();
    let certificate = &mut bundle[site.certificate.clone()];
    let (before, wrapped) = certificate.split_at_mut(site.wrapped_at);
    let changed = edited(wrapped, edits);
    for (byte, new) in wrapped.iter_mut().zip(changed) {
        *byte = new;
    }
    let _unchanged = before;
    // Tag and length of the certificate, then the part that is signed: tag and length again.
    let length = usize::from(u16::from_be_bytes([certificate[6], certificate[7]]));
    let signed = certificate[4..8 + length].to_vec();
    let signature = rcgen::SigningKey::sign(&site.root_pair, &signed).expect("a signature");
    let at = certificate.len() - signature.len();
    certificate[at..].copy_from_slice(&signature);
    bundle
}

/// The true bundle with other entries in its last view, sealed again; room for the bundle's signature behind them.
fn with_view(site: &Site, edits: &[u8]) -> Vec<u8> {
    assert!(site.view.label_at < site.view.sealed_at);
    let mut sealed = edited(&site.view.text, edits);
    let nonce = site.bundle_body[site.view.sealed_at - 16..site.view.sealed_at - 4]
        .try_into()
        .expect("12 bytes");
    let tag = Key::new(Suite::Aes256GcmSiv, &site.view.key).seal(nonce, &site.view.aad, &mut sealed);
    sealed.extend_from_slice(&tag);
    let mut body = site.bundle_body[..site.view.sealed_at - 4].to_vec();
    body.extend_from_slice(&u32::try_from(sealed.len()).expect("a small view").to_be_bytes());
    body.extend_from_slice(&sealed);
    body.extend_from_slice(&[0; 64]);
    body
}

/// Length and signature made anew.
fn signed_bundle(site: &Site, mut body: Vec<u8>) -> String {
    let len = u32::try_from(body.len()).expect("a small bundle");
    if let Some(field) = body.get_mut(1..5) {
        field.copy_from_slice(&len.to_be_bytes());
    }
    if let Some((before, signature)) = body.split_last_chunk_mut::<64>() {
        *signature = site.statement_key.sign("coterie/1 bundle", before);
    }
    armoured("COTERIE BUNDLE", &body, &site.bundle_text, |text| {
        match Bundle::parse(text) {
            Err(BundleError::Armour(error)) => expected(&error),
            Ok(_) | Err(_) => None,
        }
    })
}

fn open(site: &Site, bytes: &[u8]) {
    let parsed = match Bundle::parse(bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let opened = match parsed.open(&site.keys, Some(site.root_hash), NOW, 1) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    consistent(site, &opened);
    // One of four that must refuse it, by the bundle: each of them costs as much as the rest.
    let other = match bytes.iter().map(|b| u32::from(*b)).sum::<u32>() % 4 {
        0 => parsed.open(&site.keys, Some([0; 32]), NOW, 1),
        1 => parsed.open(&site.keys, None, opened.not_after, 1),
        2 if opened.serial < u64::MAX => parsed.open(&site.keys, None, NOW, opened.serial + 1),
        _ => parsed.open(&site.renewed, None, NOW, 1),
    };
    assert!(other.is_err(), "believed by whom it must not be");
    let claims = (
        parsed.claimed_name(),
        parsed.claimed_serial(),
        parsed.claimed_not_after(),
    );
    assert_eq!(claims, (&opened.name, opened.serial, opened.not_after));
    assert_eq!(parsed.claimed_root(), site.root_hash);
    // Who knows the root before believes it by that root's word, and by nothing else.
    let body = body_of(&(plain(bytes) + "\n"));
    let (front, _) = parts::decode_bundle(&body).expect("it was opened");
    let earlier = site.earlier.verifying_key();
    let named = front.successions.iter().any(|link| link.claimed().from == earlier);
    let by_the_word = parsed.open(&site.keys, Some(root_hash(&earlier)), NOW, 1);
    assert_eq!(by_the_word.is_ok(), named);
}

fn consistent(site: &Site, opened: &Opened) {
    assert_eq!(root_hash(&opened.root), site.root_hash);
    assert!(opened.not_after > NOW && opened.serial >= 1 && opened.authority.not_after > NOW);
    assert!(
        opened
            .statements
            .iter()
            .all(|s| s.static_key == *site.keys.static_key().public())
    );
    assert!(
        opened
            .statements
            .iter()
            .all(|s| s.member == opened.member && s.name == opened.name)
    );
    for key in &opened.keys {
        let commitment = coterie_model::commitment(key.tag, key.epoch, &key.key);
        let manifest = opened
            .manifests
            .iter()
            .find(|m| (m.tag, m.epoch) == (key.tag, key.epoch));
        assert_eq!(manifest.expect("its manifest").commitment, commitment);
    }
    let held: Vec<_> = opened.keys.iter().map(|k| k.tag).collect();
    for entry in &opened.directory {
        assert!(entry.statements.iter().all(|s| s.name == entry.name));
        assert!(entry.communities.iter().all(|tag| held.contains(tag)));
    }
}

/// A request that is accepted has one spelling.
pub(crate) fn request(data: &[u8]) {
    let site = &*THE_SITE;
    let bytes = match input(data, &site.request_text, &site.request_body) {
        Input::File(bytes) => bytes,
        Input::Body(mut body) => {
            if let Some((before, signature)) = body.split_last_chunk_mut::<64>() {
                *signature = site.identity.sign("coterie/1 request", before);
            }
            let text = armoured(
                "COTERIE REQUEST",
                &body,
                &site.request_text,
                |text| match Request::parse(text) {
                    Err(RequestError::Armour(error)) => expected(&error),
                    Ok(_) | Err(_) => None,
                },
            );
            text.into_bytes()
        }
        Input::Inner(_, rest) => rest,
    };
    match Request::parse(&bytes) {
        Ok(request) => {
            assert_eq!(request.to_text().trim_end_matches('\n'), plain(&bytes));
            assert_eq!(Request::parse(request.to_text().as_bytes()).as_ref(), Ok(&request));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Keys that are accepted have one spelling.
pub(crate) fn keys(data: &[u8]) {
    let site = &*THE_SITE;
    let bytes = match input(data, &site.keys_text, &site.keys_body) {
        Input::File(bytes) => bytes,
        Input::Body(body) => keys_file(body, &site.keys_text).into_bytes(),
        Input::Inner(_, rest) => rest,
    };
    match Keys::parse(&bytes) {
        Ok(keys) => assert_eq!(keys.to_text().trim_end_matches('\n'), plain(&bytes)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
