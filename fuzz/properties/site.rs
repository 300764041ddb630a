//! A true enclave with a true bundle in it, and its keys: what inputs are changes of, and what signs them again.

use std::sync::LazyLock;

use coterie_control::{
    bundle::{Bundle, Keys, Opened, Request, Succession, member_uri, parts},
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

use super::remake::{body_of, keys_file};

/// Protocol time.
pub(crate) const NOW: UnixTime = UnixTime(1_795_506_345);

/// The enclave file.
pub(crate) const SITE: &str = r#"
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
pub(crate) struct Site {
    pub(crate) statement_key: SigningKey,
    pub(crate) root_hash: [u8; 32],
    /// Signs the authority.
    pub(crate) root: SigningKey,
    /// The root before, which has named this one.
    pub(crate) earlier: SigningKey,
    /// The same key; signs certificates.
    pub(crate) root_pair: rcgen::KeyPair,
    pub(crate) uri: String,
    pub(crate) keys: Keys,
    /// The same machine with another identity key.
    pub(crate) renewed: Keys,
    pub(crate) identity: SigningKey,
    pub(crate) keys_body: Vec<u8>,
    pub(crate) keys_text: String,
    pub(crate) request_body: Vec<u8>,
    pub(crate) request_text: String,
    pub(crate) bundle_body: Vec<u8>,
    pub(crate) bundle_text: String,
    /// Signed objects of the bundle: label, body, and where it stands in the bundle with its length field.
    pub(crate) objects: Vec<(&'static str, Vec<u8>, core::ops::Range<usize>)>,
    /// Where the bundle certificate stands, and where the wrapped keys begin in it.
    pub(crate) certificate: core::ops::Range<usize>,
    pub(crate) wrapped_at: usize,
    /// Certificates of the bundle: with the wrapped keys, for mutual TLS, the root's.
    pub(crate) certificates: [Vec<u8>; 3],
    pub(crate) view: View,
}

/// The last view of the bundle.
pub(crate) struct View {
    /// Where its label starts, and where its sealed entries do.
    pub(crate) label_at: usize,
    pub(crate) sealed_at: usize,
    /// The entries, in clear.
    pub(crate) text: Vec<u8>,
    pub(crate) key: Secret<32>,
    pub(crate) aad: Vec<u8>,
}

pub(crate) static THE_SITE: LazyLock<Site> = LazyLock::new(Site::new);

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
        enclave.set_servers(vec!["10.77.0.9:4750".parse().expect("an address")]);
        enclave.revoke(&name("gone"), NOW).expect("an enrolled member");
        let seed = |enclave: &Enclave, path| {
            let files = enclave.to_files();
            let stored = files.iter().find(|f| f.path == path).expect("it is always written");
            let body = body_of(core::str::from_utf8(&stored.bytes).expect("text"));
            SigningKey::from_seed(Secret::from_slice(&body[1..]).expect("a seed"))
        };
        let earlier = seed(&enclave, "root.key");
        enclave.rotate_root(NOW, &mut entropy).expect("the first time");
        let (root, statement_key) = (seed(&enclave, "root.key"), seed(&enclave, "statement.key"));
        let bundle_text = enclave
            .issue(&name("left"), NOW, &mut entropy)
            .expect("an enrolled member");
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
        let renewed = keys_file(renewed, &keys_text);
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
            certificates: [
                opened.bundle_certificate,
                opened.identity_certificate,
                opened.root_certificate,
            ],
            root_pair: rcgen::KeyPair::try_from(root.to_pkcs8().expect("a key").as_slice()).expect("a key"),
            uri: member_uri(&opened.authority.name, &opened.name),
            root,
            earlier,
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
    let (front, _) = parts::decode_bundle(bundle).expect("a true bundle");
    all.extend(front.successions.iter().map(|s| object(Succession::LABEL, s.bytes())));
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
