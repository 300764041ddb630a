//! What must hold of the decoders of files, whatever the bytes. One function for each target of the same name.
//!
//! What a signature or checksum would keep the fuzzer out of is signed again after it was changed: an input says what is
//! changed of a true file. So the corpus stays of use when the true file changes.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coterie_control::{
    bundle::{ArmourError, Bundle, BundleError, Keys, KeysError, Opened, Request, RequestError, root_hash},
    file,
    issue::Enclave,
};
use coterie_crypto::{
    Secret, SeededEntropy,
    aead::{Key, Suite},
    hash,
    sign::SigningKey,
};
use coterie_model::{
    Authority, EpochKey, Head, Manifest, Name, Revocations, Signed, SignedObject as _, Statement, UnixTime, Writer,
    signed::head_hash,
};

/// A property of some bytes.
pub(crate) type Property = fn(&[u8]);

/// Every target of this crate, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[
    ("enclave_file", enclave_file),
    ("bundle", bundle),
    ("view", view),
    ("request", request),
    ("keys", keys),
];

const NOW: UnixTime = UnixTime(1_795_506_345);

const SITE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/24", "fd77::/64"]
[community.web]
[community.db]
[template.node]
communities = ["web", "db"]
exclude = ["right"]
lockdown = true
forkable = true
suites = ["aes-256-gcm-siv"]
[member.left]
template = "node"
addresses = ["10.77.0.1", "fd77::1"]
endpoints = ["192.0.2.1", "[2001:db8::1]:4748"]
[member.right]
template = "node"
endpoints = ["192.0.2.2"]
[member.gone]
template = "node"
"#;

/// A true enclave, and what its member `left` got.
struct Site {
    statement_key: SigningKey,
    root_hash: [u8; 32],
    /// Signs certificates and the authority.
    root: SigningKey,
    keys: Keys,
    /// The same machine with another identity key.
    renewed: Keys,
    identity: SigningKey,
    keys_body: Vec<u8>,
    keys_text: String,
    request_body: Vec<u8>,
    request_text: String,
    bundle_body: Vec<u8>,
    bundle_text: String,
    /// Signed objects of the bundle: label, body, and where it stands in the bundle with its length field.
    objects: Vec<(&'static str, Vec<u8>, core::ops::Range<usize>)>,
    /// Where the bundle certificate stands, and where the wrapped keys begin in it.
    certificate: core::ops::Range<usize>,
    wrapped_at: usize,
    view: View,
}

/// The last view of the bundle.
struct View {
    /// Where its label starts, and where its sealed entries do.
    label_at: usize,
    sealed_at: usize,
    /// The entries, in clear.
    text: Vec<u8>,
    key: Secret<32>,
    aad: Vec<u8>,
}

static THE_SITE: LazyLock<Site> = LazyLock::new(Site::new);

impl Site {
    fn new() -> Self {
        let mut entropy = SeededEntropy::from_number(1);
        let mut enclave = Enclave::init(SITE, NOW, &mut entropy).expect("a true enclave file");
        let name = |text| Name::new(text).expect("a true name");
        let keys = Keys::generate(name("left"), &mut entropy);
        for member in [
            &keys,
            &Keys::generate(name("right"), &mut entropy),
            &Keys::generate(name("gone"), &mut entropy),
        ] {
            let request = Request::new(member).expect("true keys");
            enclave
                .admit(&request, NOW, &mut entropy)
                .expect("a member of the file");
        }
        enclave
            .issue(&name("gone"), NOW, &mut entropy)
            .expect("an enrolled member");
        enclave.revoke(&name("gone"), NOW).expect("an enrolled member");
        let bundle_text = enclave
            .issue(&name("left"), NOW, &mut entropy)
            .expect("an enrolled member");
        let files = enclave.to_files();
        let seed = |path| {
            let stored = files.iter().find(|f| f.path == path).expect("it is always written");
            let body = body_of(core::str::from_utf8(&stored.bytes).expect("text"));
            SigningKey::from_seed(Secret::from_slice(&body[1..]).expect("a seed"))
        };
        let (root, statement_key) = (seed("root.key"), seed("statement.key"));
        let request_text = Request::new(&keys).expect("true keys").to_text();
        let keys_text = keys.to_text().to_string();
        let keys_body = body_of(&keys_text);
        let bundle_body = body_of(&bundle_text);
        let opened = Bundle::parse(bundle_text.as_bytes())
            .and_then(|b| b.open(&keys, Some(enclave.root_hash()), NOW, 0))
            .expect("a true bundle");
        let mut renewed = keys_body.clone();
        let len = renewed.len();
        renewed[len - 9] ^= 1;
        let renewed = keys_file(renewed);
        let certificate = found(&bundle_body, &opened.bundle_certificate);
        let marker = [1, 0x64, 0x7a, 0, 1, 0, 2];
        Self {
            root_hash: enclave.root_hash(),
            identity: keys.identity_key(),
            renewed: Keys::parse(renewed.as_bytes()).expect("well-formed keys"),
            keys_body,
            request_body: body_of(&request_text),
            view: View::of(&bundle_body, &opened),
            objects: objects(&bundle_body, &opened, &statement_key),
            wrapped_at: found(&bundle_body[certificate.clone()], &marker).start,
            certificate,
            root,
            statement_key,
            keys,
            keys_text,
            request_text,
            bundle_body,
            bundle_text,
        }
    }
}

fn found(bytes: &[u8], part: &[u8]) -> core::ops::Range<usize> {
    let mut at = bytes
        .windows(part.len())
        .enumerate()
        .filter(|(_, window)| *window == part)
        .map(|(at, _)| at);
    let first = at.next().expect("it is there");
    first..first + part.len()
}

/// The signed objects of a true bundle, and a head, which an enclave without a server has not.
fn objects(
    bundle: &[u8],
    opened: &Opened,
    statement_key: &SigningKey,
) -> Vec<(&'static str, Vec<u8>, core::ops::Range<usize>)> {
    let object = |label, signed: &[u8]| {
        let place = found(bundle, signed);
        (label, signed[..signed.len() - 64].to_vec(), place.start - 2..place.end)
    };
    let list = opened.revocations.as_ref().expect("one was revoked");
    let mut all = vec![
        object(Authority::LABEL, opened.authority.bytes()),
        object(Revocations::LABEL, list.bytes()),
    ];
    all.extend(opened.statements.iter().map(|s| object(Statement::LABEL, s.bytes())));
    all.extend(opened.manifests.iter().map(|m| object(Manifest::LABEL, m.bytes())));
    let head = Head {
        era: list.era,
        enclave: list.enclave,
        revision: list.revision,
        time: NOW,
        hash: head_hash(list),
    };
    let head = Signed::sign(head, statement_key);
    let behind = all[1].2.end;
    all.push((
        Head::LABEL,
        head.bytes()[..head.bytes().len() - 64].to_vec(),
        behind..behind + 2,
    ));
    all
}

impl View {
    fn of(body: &[u8], opened: &Opened) -> Self {
        let end = body.len() - 64;
        // The sealed entries are the last of the bundle, behind their length.
        let sealed_at = (4..end)
            .rev()
            .find(|at| body[at - 4..*at] == u32::try_from(end - at).expect("a small bundle").to_be_bytes())
            .expect("a view");
        let label_at = sealed_at - (16 + 8 + 40 + 12 + 4);
        let mut w = Writer::new();
        w.bytes(&body[label_at..label_at + 16])
            .bytes(&opened.member.0)
            .u64(opened.serial);
        let aad = w.into_bytes();
        let nonce = body[sealed_at - 16..sealed_at - 4].try_into().expect("12 bytes");
        let open = |key: &EpochKey| {
            let mut sealed = body[sealed_at..end].to_vec();
            let opening = view_key(key);
            let text = Key::new(Suite::Aes256GcmSiv, &opening)
                .open(nonce, &aad, &mut sealed)
                .ok()?
                .to_vec();
            Some((opening, text))
        };
        let (key, text) = opened.keys.iter().find_map(open).expect("sealed as the document says");
        Self {
            label_at,
            sealed_at,
            text,
            key,
            aad,
        }
    }
}

fn view_key(key: &EpochKey) -> Secret<32> {
    let (tag, epoch) = (key.tag.0, key.epoch.to_be_bytes());
    hash::derive(b"", key.key.expose(), &[b"coterie/1 view", &tag, &epoch])
}

/// A true value, changed as `edits` say: place (u16), how much goes (u8), how much comes (u8), what comes.
fn edited(original: &[u8], mut edits: &[u8]) -> Vec<u8> {
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
fn body_of(text: &str) -> Vec<u8> {
    let (_, rest) = text.split_once("\n\n").expect("a true file");
    let lines: String = rest.lines().take_while(|line| !line.starts_with('-')).collect();
    STANDARD.decode(lines).expect("a true file")
}

/// The file of `body`. Header lines are a function of the body: they are what the reader says that it expected.
fn armoured(label: &str, body: &[u8], expected: impl Fn(&[u8]) -> Option<String>) -> String {
    let mut headers = String::new();
    let mut base64 = String::new();
    for chunk in body.chunks(48) {
        base64.push_str(&STANDARD.encode(chunk));
        base64.push('\n');
    }
    for _ in 0..8 {
        let text = format!("-----BEGIN {label}-----\n{headers}\n{base64}-----END {label}-----\n");
        match expected(text.as_bytes()) {
            Some(line) => headers = headers + &line + "\n",
            None => return text,
        }
    }
    panic!("at most six header lines");
}

fn expected(error: &ArmourError) -> Option<String> {
    if let ArmourError::Header { expected, .. } = error {
        Some(expected.clone())
    } else {
        None
    }
}

/// The one spelling of a file whose line ends do not matter.
fn plain(text: &[u8]) -> String {
    let text = String::from_utf8(text.to_vec()).expect("an accepted file is ASCII");
    text.replace("\r\n", "\n").trim_end_matches('\n').to_owned()
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

/// A file is accepted whole, or every complaint points into it, in order, and can be shown.
pub(crate) fn enclave_file(data: &[u8]) {
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
    }
    let shown = diagnostics.render("enclave.toml", file::Style::Plain);
    assert_eq!(shown.is_empty(), diagnostics.is_empty() && diagnostics.omitted() == 0);
    let directs = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let printable = |c: char| c == '\n' || !(c.is_control() || directs(c));
    assert!(
        shown.chars().all(printable),
        "nothing of the file reaches a terminal as a control: {shown:?}"
    );
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

/// A bundle opens only on its machine, and what it gives is consistent.
pub(crate) fn bundle(data: &[u8]) {
    let site = &*THE_SITE;
    let bytes = match input(data, &site.bundle_text, &site.bundle_body) {
        Input::File(bytes) => bytes,
        Input::Body(body) => signed_bundle(site, body).into_bytes(),
        Input::Inner(3, wrapped) => signed_bundle(site, with_wrapped_keys(site, &wrapped)).into_bytes(),
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
    let key = if *label == Authority::LABEL {
        &site.root
    } else {
        &site.statement_key
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
    let key = rcgen::KeyPair::try_from(site.root.to_pkcs8().expect("a key").as_slice()).expect("a key");
    let signature = rcgen::SigningKey::sign(&key, &signed).expect("a signature");
    let at = certificate.len() - signature.len();
    certificate[at..].copy_from_slice(&signature);
    bundle
}

/// A view opens only if it is well-formed, and gives members of its community alone.
pub(crate) fn view(data: &[u8]) {
    let site = &*THE_SITE;
    let mut sealed = edited(&site.view.text, data);
    let nonce = site.bundle_body[site.view.sealed_at - 16..site.view.sealed_at - 4]
        .try_into()
        .expect("12 bytes");
    let tag = Key::new(Suite::Aes256GcmSiv, &site.view.key).seal(nonce, &site.view.aad, &mut sealed);
    sealed.extend_from_slice(&tag);
    let mut body = site.bundle_body[..site.view.sealed_at - 4].to_vec();
    body.extend_from_slice(&u32::try_from(sealed.len()).expect("a small view").to_be_bytes());
    body.extend_from_slice(&sealed);
    body.extend_from_slice(&[0; 64]);
    let text = signed_bundle(site, body);
    assert!(site.view.label_at < site.view.sealed_at);
    if let Some(opened) = open(site, text.as_bytes()) {
        let held: Vec<_> = opened.keys.iter().map(|k| k.tag).collect();
        assert!(
            opened
                .directory
                .iter()
                .all(|e| e.communities.iter().all(|tag| held.contains(tag)))
        );
    }
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
    armoured("COTERIE BUNDLE", &body, |text| match Bundle::parse(text) {
        Err(BundleError::Armour(error)) => expected(&error),
        Ok(_) | Err(_) => None,
    })
}

fn open(site: &Site, bytes: &[u8]) -> Option<Opened> {
    let parsed = match Bundle::parse(bytes) {
        Ok(parsed) => parsed,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let opened = match parsed.open(&site.keys, Some(site.root_hash), NOW, 1) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    consistent(site, &opened);
    assert!(
        parsed.open(&site.keys, Some([0; 32]), NOW, 1).is_err(),
        "another root is trusted"
    );
    let refused = [
        parsed.open(&site.keys, None, opened.not_after, 1),
        parsed.open(&site.keys, None, NOW, opened.serial.saturating_add(1)),
        parsed.open(&site.renewed, None, NOW, 1),
    ];
    assert!(opened.serial == u64::MAX || refused.iter().all(Result::is_err));
    let claims = (
        parsed.claimed_name(),
        parsed.claimed_serial(),
        parsed.claimed_not_after(),
    );
    assert_eq!(claims, (&opened.name, opened.serial, opened.not_after));
    assert_eq!(parsed.claimed_root(), site.root_hash);
    Some(opened)
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
    let theirs = |e: &coterie_model::DirectoryEntry| e.statements.iter().all(|s| s.name == e.name);
    assert!(opened.directory.iter().all(theirs));
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
            let text = armoured("COTERIE REQUEST", &body, |text| match Request::parse(text) {
                Err(RequestError::Armour(error)) => expected(&error),
                Ok(_) | Err(_) => None,
            });
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
        Input::Body(body) => keys_file(body).into_bytes(),
        Input::Inner(_, rest) => rest,
    };
    match Keys::parse(&bytes) {
        Ok(keys) => assert_eq!(keys.to_text().trim_end_matches('\n'), plain(&bytes)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Keys with their checksum made anew.
fn keys_file(mut body: Vec<u8>) -> String {
    if let Some((before, sum)) = body.split_last_chunk_mut::<8>() {
        sum.copy_from_slice(&hash::sha256(&[b"coterie/1 keys", before])[..8]);
    }
    armoured("COTERIE KEYS", &body, |text| match Keys::parse(text) {
        Err(KeysError::Armour(error)) => expected(&error),
        Ok(_) | Err(_) => None,
    })
}
