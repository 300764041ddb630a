//! An enclave in memory: the example file, its issuer, and the machines.

#![expect(dead_code, reason = "each test program uses its part of this site")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coterie_control::{
    bundle::{Bundle, BundleError, Keys, Opened, Request},
    issue::{Admission, Enclave, IssueError, Roll, Rolled},
};
use coterie_crypto::SeededEntropy;
use coterie_model::{Name, UnixTime, Writer};

/// 2026-11-24T07:45:45Z.
pub(crate) const NOW: UnixTime = UnixTime(1_795_506_345);
/// The lease of the example.
pub(crate) const LEASE: Duration = Duration::from_secs(3600);

pub(crate) fn later(by: Duration) -> UnixTime {
    NOW.plus(by)
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn example() -> String {
    include_str!("../../../../examples/three-tier.toml").to_owned()
}

/// The file without the table that starts with `header`.
pub(crate) fn without_section(text: &str, header: &str) -> String {
    let start = text.find(header).unwrap();
    let end = text[start + 1..].find("\n[").map_or(text.len(), |at| start + 1 + at);
    format!("{}{}", &text[..start], &text[end..])
}

pub(crate) struct Site {
    pub(crate) enclave: Enclave,
    pub(crate) keys: BTreeMap<String, Keys>,
    pub(crate) requests: BTreeMap<String, Request>,
    /// The newest bundle of each member.
    pub(crate) bundles: BTreeMap<String, String>,
    /// All bundles of each member, the oldest first.
    pub(crate) history: BTreeMap<Name, Vec<String>>,
    entropy: SeededEntropy,
}

impl Site {
    /// The example, every member enrolled and with a bundle.
    pub(crate) fn enrolled() -> Self {
        Self::of(&example())
    }

    pub(crate) fn of(text: &str) -> Self {
        let mut entropy = SeededEntropy::from_number(42);
        let enclave = Enclave::init(text, NOW, &mut entropy).unwrap();
        let mut site = Self {
            enclave,
            keys: BTreeMap::new(),
            requests: BTreeMap::new(),
            bundles: BTreeMap::new(),
            history: BTreeMap::new(),
            entropy,
        };
        for (number, member) in site.members().iter().enumerate() {
            site.new_keys(member.as_str(), u64::try_from(number).unwrap());
            assert_eq!(site.admit(member.as_str(), NOW), Ok(Admission::New));
        }
        for member in site.members() {
            site.issue(member.as_str(), NOW);
        }
        site
    }

    pub(crate) fn members(&self) -> Vec<Name> {
        self.enclave.file().members.keys().cloned().collect()
    }

    /// The machine draws keys and writes a request, which the issuer reads.
    pub(crate) fn new_keys(&mut self, member: &str, seed: u64) {
        let keys = Keys::generate(name(member), &mut SeededEntropy::from_number(1000 + seed));
        let request = Request::parse(Request::new(&keys).unwrap().to_text().as_bytes()).unwrap();
        self.keys
            .insert(member.to_owned(), Keys::parse(keys.to_text().as_bytes()).unwrap());
        self.requests.insert(member.to_owned(), request);
    }

    pub(crate) fn admit(&mut self, member: &str, now: UnixTime) -> Result<Admission, IssueError> {
        self.enclave.admit(&self.requests[member], now, &mut self.entropy)
    }

    pub(crate) fn issue(&mut self, member: &str, now: UnixTime) {
        let bundle = self.enclave.issue(&name(member), now, &mut self.entropy).unwrap();
        self.history.entry(name(member)).or_default().push(bundle.clone());
        self.bundles.insert(member.to_owned(), bundle);
    }

    pub(crate) fn roll(&mut self, community: &str, kind: Roll, now: UnixTime) -> Result<Rolled, IssueError> {
        self.enclave.roll(&name(community), kind, now, &mut self.entropy)
    }

    pub(crate) fn open_now(&self, member: &str) -> Opened {
        self.open(&name(member), NOW)
    }

    pub(crate) fn open(&self, member: &Name, now: UnixTime) -> Opened {
        self.try_open_with(member, member, now).unwrap()
    }

    pub(crate) fn try_open_with(&self, member: &Name, keys_of: &Name, now: UnixTime) -> Result<Opened, BundleError> {
        self.enclave_root_open(&self.bundles[member.as_str()], keys_of.as_str(), now, 0)
    }

    pub(crate) fn enclave_root_open(
        &self,
        bundle: &str,
        keys_of: &str,
        now: UnixTime,
        floor: u64,
    ) -> Result<Opened, BundleError> {
        Bundle::parse(bundle.as_bytes())?.open(&self.keys[keys_of], Some(self.enclave.root_hash()), now, floor)
    }
}

/// The directory as a map from path to bytes.
pub(crate) fn stored(enclave: &Enclave) -> BTreeMap<&'static str, Vec<u8>> {
    enclave
        .to_files()
        .into_iter()
        .map(|file| (file.path, file.bytes.to_vec()))
        .collect()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Keys of which each part is somebody else's: what a thief of one of them has.
pub(crate) fn mixed_keys(static_of: &Keys, opening_of: &Keys, identity_of: &Keys) -> Keys {
    keys_of_parts(
        static_of.name(),
        static_of.static_key().private().expose(),
        opening_of.opening_key().seed().expose(),
        identity_of.identity_key().seed().expose(),
    )
}

pub(crate) fn renamed(keys: &Keys, member: &str) -> Keys {
    keys_of_parts(
        &name(member),
        keys.static_key().private().expose(),
        keys.opening_key().seed().expose(),
        keys.identity_key().seed().expose(),
    )
}

fn keys_of_parts(member: &Name, static_private: &[u8], opening: &[u8], identity: &[u8]) -> Keys {
    let mut w = Writer::new();
    w.u8(1)
        .name(member)
        .bytes(static_private)
        .bytes(opening)
        .bytes(identity);
    let mut body = w.into_bytes();
    let digest = coterie_crypto::hash::sha256(&[b"coterie/1 keys", &body]);
    body.extend_from_slice(&digest[..8]);
    Keys::parse(armour("COTERIE KEYS", &format!("Member: {member}\n"), &body).as_bytes()).unwrap()
}

/// A file as docs/BUNDLE.md section 1 describes it, written by hand.
pub(crate) fn armour(label: &str, headers: &str, body: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n{headers}\n");
    for chunk in body.chunks(48) {
        text.push_str(&STANDARD.encode(chunk));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// Header lines, with their ends, and body of a file.
pub(crate) fn disarm(text: &str) -> (String, Vec<u8>) {
    let (front, rest) = text.split_once("\n\n").unwrap();
    let headers = front.split_once('\n').unwrap().1.to_owned() + "\n";
    let lines: String = rest.lines().take_while(|line| !line.starts_with("-----")).collect();
    (headers, STANDARD.decode(lines).unwrap())
}
