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
use coterie_model::{EpochKey, Name, UnixTime, Writer};

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
name = "pair"
pools = ["10.77.0.0/24", "fd77::/64"]
[community.pair]
[template.node]
communities = ["pair"]
[member.left]
template = "node"
addresses = ["10.77.0.1", "fd77::1"]
endpoints = ["192.0.2.1", "[2001:db8::1]:4748"]
[member.right]
template = "node"
endpoints = ["192.0.2.2"]
"#;

/// A true enclave, and what its member `left` got.
struct Site {
    statement_key: SigningKey,
    root_hash: [u8; 32],
    keys: Keys,
    identity: SigningKey,
    keys_body: Vec<u8>,
    keys_text: String,
    request_body: Vec<u8>,
    request_text: String,
    bundle_body: Vec<u8>,
    bundle_text: String,
    view: View,
}

/// The one view of the bundle.
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
        let others = Keys::generate(name("right"), &mut entropy);
        for keys in [&keys, &others] {
            let request = Request::new(keys).expect("true keys");
            enclave
                .admit(&request, NOW, &mut entropy)
                .expect("a member of the file");
        }
        let bundle_text = enclave
            .issue(&name("left"), NOW, &mut entropy)
            .expect("an enrolled member");
        let files = enclave.to_files();
        let stored = files
            .iter()
            .find(|f| f.path == "statement.key")
            .expect("it is always written");
        let seed = body_of(core::str::from_utf8(&stored.bytes).expect("text"));
        let request_text = Request::new(&keys).expect("true keys").to_text();
        let keys_text = keys.to_text().to_string();
        let bundle_body = body_of(&bundle_text);
        let opened = Bundle::parse(bundle_text.as_bytes())
            .and_then(|b| b.open(&keys, Some(enclave.root_hash()), NOW, 0))
            .expect("a true bundle");
        Self {
            statement_key: SigningKey::from_seed(Secret::from_slice(&seed[1..]).expect("a seed")),
            root_hash: enclave.root_hash(),
            identity: keys.identity_key(),
            keys_body: body_of(&keys_text),
            request_body: body_of(&request_text),
            view: View::of(&bundle_body, &opened),
            keys,
            keys_text,
            request_text,
            bundle_body,
            bundle_text,
        }
    }
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
        let epoch_key = &opened.keys[0];
        let key = view_key(epoch_key);
        let mut w = Writer::new();
        w.bytes(&body[label_at..label_at + 16])
            .bytes(&opened.member.0)
            .u64(opened.serial);
        let aad = w.into_bytes();
        let mut sealed = body[sealed_at..end].to_vec();
        let nonce = body[sealed_at - 16..sealed_at - 4].try_into().expect("12 bytes");
        let text = Key::new(Suite::Aes256GcmSiv, &key)
            .open(nonce, &aad, &mut sealed)
            .expect("sealed as the document says")
            .to_vec();
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
}

fn input(data: &[u8], text: &str, body: &[u8]) -> Input {
    match data.split_first() {
        None => Input::File(vec![]),
        Some((kind, rest)) => match kind % 3 {
            0 => Input::Body(edited(body, rest)),
            1 => Input::File(edited(text.as_bytes(), rest)),
            _ => Input::File(rest.to_vec()),
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

/// A bundle opens only on its machine, and what it gives is consistent.
pub(crate) fn bundle(data: &[u8]) {
    let site = &*THE_SITE;
    let bytes = match input(data, &site.bundle_text, &site.bundle_body) {
        Input::File(bytes) => bytes,
        Input::Body(body) => signed_bundle(site, body).into_bytes(),
    };
    open(site, &bytes);
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
        let tag = opened.keys[0].tag;
        assert!(opened.directory.iter().all(|e| e.communities == [tag]));
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
        Input::Body(mut body) => {
            if let Some((before, sum)) = body.split_last_chunk_mut::<8>() {
                sum.copy_from_slice(&hash::sha256(&[b"coterie/1 keys", before])[..8]);
            }
            let text = armoured("COTERIE KEYS", &body, |text| match Keys::parse(text) {
                Err(KeysError::Armour(error)) => expected(&error),
                Ok(_) | Err(_) => None,
            });
            text.into_bytes()
        }
    };
    match Keys::parse(&bytes) {
        Ok(keys) => assert_eq!(keys.to_text().trim_end_matches('\n'), plain(&bytes)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
