//! What must hold of the state that a store gives back: an input says what is changed of true records. Signed objects in
//! them are signed again where the input says so.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coterie_control::{
    bundle::{Keys, Request, Succession},
    issue::{Enclave, Part, Roll},
};
use coterie_crypto::{Secret, SeededEntropy, sign::SigningKey};
use coterie_model::{Authority, Manifest, MemberId, Name, Revocations, SignedObject as _, Statement};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    control::Property,
    remake::edited,
    site::{NOW, SITE},
};

/// Every target of this file, by name.
pub(crate) const TARGETS: &[(&str, Property)] = &[("records", records)];

/// Changes after which an input is cut.
const MAX_CHANGES: usize = 12;

type Records = BTreeMap<Part, Vec<u8>>;

/// A true enclave, part by part, and the keys that sign what is in it.
struct Stored {
    records: Vec<(Part, Vec<u8>)>,
    root: SigningKey,
    /// The root before.
    earlier: SigningKey,
    statement: SigningKey,
    identities: BTreeMap<Name, SigningKey>,
}

static TRUE: LazyLock<Stored> = LazyLock::new(Stored::new);

impl Stored {
    /// Members of the file, one of whom is isolated and one revoked, one made by a token, and an epoch that is to come.
    fn new() -> Self {
        let mut entropy = SeededEntropy::from_number(2);
        let mut enclave = Enclave::init(SITE, NOW, &mut entropy).expect("a true enclave file");
        enclave.serve(NOW).expect("it has just begun");
        let mut identities = BTreeMap::new();
        for member in ["left", "right", "gone", "made"].map(name) {
            let keys = Keys::generate(member.clone(), &mut entropy);
            let request = Request::new(&keys).expect("true keys");
            let endpoints = vec!["192.0.2.9:4747".parse().expect("an endpoint")];
            let admitted = match member.as_str() {
                "made" => enclave.provision(&name("node"), endpoints, &request, false, MemberId([7; 16]), NOW),
                _ => enclave.admit(&request, NOW, &mut entropy),
            };
            admitted.expect("of a template");
            enclave.issue(&member, NOW, &mut entropy).expect("an enrolled member");
            identities.insert(member, keys.identity_key());
        }
        enclave.revoke(&name("gone"), NOW).expect("an enrolled member");
        enclave.isolate(&name("right"), NOW).expect("an enrolled member");
        let activates_in = core::time::Duration::from_secs(60);
        enclave
            .roll(&name("db"), Roll::Scheduled { activates_in }, NOW, &mut entropy)
            .expect("the first has activated");
        enclave.set_servers(vec!["10.77.0.9:4750".parse().expect("an address")]);
        let parts = |enclave: &mut Enclave| -> (Vec<(Part, Vec<u8>)>, SigningKey, SigningKey) {
            enclave.touch_all();
            let all = enclave.take_records().into_iter();
            let records: Vec<_> = all.filter_map(|r| Some((r.part, r.value?.to_vec()))).collect();
            let (_, seeds) = records.iter().find(|(part, _)| *part == Part::Root).expect("keys");
            let key = |seed| SigningKey::from_seed(Secret::from_slice(seed).expect("a seed"));
            let (root, statement) = (key(&seeds[..32]), key(&seeds[32..]));
            (records, root, statement)
        };
        let (_, earlier, _) = parts(&mut enclave);
        enclave.rotate_root(NOW, &mut entropy).expect("the first time");
        let (records, root, statement) = parts(&mut enclave);
        Self {
            records,
            root,
            earlier,
            statement,
            identities,
        }
    }

    /// The bytes of a signed object, changed, with a signature behind them.
    fn signed(&self, object: &[u8], label: &str, key: &SigningKey, edits: &[u8]) -> Vec<u8> {
        let body = &object[..object.len().saturating_sub(64)];
        let mut changed = edited(body, edits);
        changed.truncate(4096);
        let signature = key.sign(label, &changed);
        changed.extend_from_slice(&signature);
        changed
    }

    /// The object that stands at `place` of `part`: what is signed with which key; `None` for what is not.
    fn signer(&self, part: &Part, place: &str) -> Option<(&'static str, &SigningKey)> {
        match part {
            Part::Revocations => Some((Revocations::LABEL, &self.statement)),
            Part::Enclave if place == "/authority" => Some((Authority::LABEL, &self.root)),
            Part::Enclave if place.ends_with("/succession") => Some((Succession::LABEL, &self.earlier)),
            Part::Community(_) if place.ends_with("/manifest") => Some((Manifest::LABEL, &self.statement)),
            Part::Member(_) if place.contains("/statements/") => Some((Statement::LABEL, &self.statement)),
            Part::Member(name) if place.ends_with("/request") => {
                Some(("coterie/1 request", self.identities.get(name)?))
            }
            Part::Root | Part::File | Part::Enclave | Part::Community(_) | Part::Keys(_) | Part::Member(_) => None,
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a true name")
}

/// State that is accepted is what is stored again, can be carried in files, and can be asked about; or it is refused with a
/// word. A change is: which record (u8), what is done (u8), length of the rest (u8), the rest.
pub(crate) fn records(data: &[u8]) {
    let site = &*TRUE;
    let mut all = site.records.clone();
    let mut script = data;
    for _ in 0..MAX_CHANGES {
        let [which, what, length, rest @ ..] = script else {
            break;
        };
        let (change, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        changed(site, &mut all, (usize::from(*which), what % 8), change);
        script = rest;
    }
    let read: Records = all.iter().cloned().collect();
    let secret = |(part, value): (Part, Vec<u8>)| (part, Zeroizing::new(value));
    match Enclave::from_records(all.into_iter().map(secret)) {
        Ok(mut enclave) => {
            asked(&enclave);
            in_files(&enclave);
            enclave.touch_all();
            let stored = enclave.take_records().into_iter();
            let stored = stored.filter_map(|r| Some((r.part, r.value?.to_vec()))).collect();
            same(&read, &stored);
        }
        Err(error) => assert!(!error.to_string().is_empty() && !data.is_empty()),
    }
}

fn changed(site: &Stored, all: &mut Vec<(Part, Vec<u8>)>, (which, what): (usize, u8), change: &[u8]) {
    if all.is_empty() {
        return;
    }
    let at = which % all.len();
    let (first, edits) = change.split_first().unwrap_or((&0, &[]));
    let first = usize::from(*first);
    match what {
        0 => all[at].1 = edited(&all[at].1, change),
        5 => drop(all.remove(at)),
        6 => all[at].1 = all[first % all.len()].1.clone(),
        7 => {
            let text = String::from_utf8_lossy(edits);
            let kinds = [
                "root",
                "file",
                "enclave",
                "revocations",
                "community",
                "keys",
                "member",
                "other",
            ];
            match Part::of(kinds[first % kinds.len()], &text) {
                Some(part) => {
                    assert!(part.key().is_empty() || part.key() == text);
                    all[at].0 = part;
                }
                None => assert!(Name::new(&text).is_err() || first % kinds.len() == 7),
            }
        }
        _ => {
            let (part, value) = &mut all[at];
            if matches!(part, Part::Revocations) {
                *value = text(site, part, "", what, value, edits).into_bytes();
            } else if let Ok(mut json) = serde_json::from_slice::<Value>(value) {
                let mut places = Vec::new();
                leaves(&json, String::new(), &mut places);
                let place = &places[first % places.len()];
                let leaf = json.pointer_mut(place).expect("it was found");
                *leaf = match leaf {
                    Value::String(old) if what < 4 => {
                        Value::String(text(site, part, place, what, old.as_bytes(), edits))
                    }
                    Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::String(_)
                    | Value::Array(_)
                    | Value::Object(_) => other(leaf, edits),
                };
                *value = serde_json::to_vec(&json).expect("JSON");
            }
        }
    }
}

/// A string of a record, changed: what it says in base64, with a new signature (1) or without one (2), or the text (3).
fn text(site: &Stored, part: &Part, place: &str, what: u8, old: &[u8], edits: &[u8]) -> String {
    let bytes = match STANDARD.decode(old) {
        Ok(bytes) if what < 3 => bytes,
        Ok(_) | Err(_) => return String::from_utf8_lossy(&edited(old, edits)).into_owned(),
    };
    STANDARD.encode(match site.signer(part, place).filter(|_| what == 1) {
        Some((label, key)) => site.signed(&bytes, label, key, edits),
        None => edited(&bytes, edits),
    })
}

/// Pointers to everything in `value` that may be changed.
fn leaves(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Array(all) => (0..all.len()).for_each(|n| leaves(&all[n], format!("{at}/{n}"), places)),
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, v)| leaves(v, format!("{at}/{key}"), places)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    places.push(at);
}

/// Another value: what stands for any of its kind, twice what was there, or JSON as it is written.
fn other(old: &Value, edits: &[u8]) -> Value {
    let (first, rest) = edits.split_first().unwrap_or((&0, &[]));
    match (first % 10, old) {
        (0, _) => Value::Null,
        (1, _) => Value::from(0),
        (2, _) => Value::from(u64::MAX),
        (3, _) => Value::from(rest.iter().fold(0, |n: u64, b| n << 8 | u64::from(*b))),
        (4, _) => Value::Bool(false),
        (5, _) => Value::Bool(true),
        (6, Value::Array(all)) => Value::Array([&all[..], all].concat()),
        (7, Value::Array(all)) => Value::Array(all.iter().rev().cloned().collect()),
        (8, Value::Array(_)) => Value::Array(Vec::new()),
        (_, _) => serde_json::from_slice(rest).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(rest))),
    }
}

/// What is asked of a state that was accepted is answered or refused.
fn asked(enclave: &Enclave) {
    let later = NOW.plus(core::time::Duration::from_secs(3600));
    for community in enclave.file().communities.keys() {
        assert!(enclave.manifests(community).is_sorted_by(|a, b| a.epoch < b.epoch));
        assert!(enclave.live_manifests(community, later).len() <= enclave.manifests(community).count());
        let tag = enclave.tag(community);
        assert!(
            enclave
                .manifests(community)
                .all(|m| (Some(m.tag), &m.name) == (tag, community))
        );
        for entry in enclave.view(community, NOW) {
            assert_eq!(Some(&entry.communities), tag.map(|tag| vec![tag]).as_ref());
            assert!(
                entry
                    .statements
                    .iter()
                    .all(|s| s.name == entry.name && Some(s.tag) == tag)
            );
        }
    }
    let all = enclave.members().map(|(_, member)| member.addresses.len());
    assert!(all.into_iter().all(|n| n <= coterie_control::file::MAX_ADDRESSES));
    let _counted = (
        enclave.enrolled().count(),
        enclave.due(later),
        enclave.due_for_renewal(later),
    );
    if let Some(head) = enclave.head(later) {
        assert_eq!(Some(head.revision), enclave.revocations().map(|list| list.revision));
    }
}

/// The same state in the files of a directory, and back.
fn in_files(enclave: &Enclave) {
    let files = enclave.to_files();
    let read = |path: &str| files.iter().find(|f| f.path == path).map(|f| f.bytes.to_vec());
    let back = Enclave::from_files(read).expect("what was accepted can be written and read");
    let again = back.to_files();
    let bytes =
        |files: &[coterie_control::issue::StoredFile]| -> Vec<_> { files.iter().map(|f| f.bytes.to_vec()).collect() };
    assert_eq!(bytes(&again), bytes(&files));
}

/// What is stored says what was read, but for keys of epochs that no community names.
fn same(read: &Records, stored: &Records) {
    for (part, value) in stored {
        if !matches!(part, Part::Keys(_)) {
            let was = read.get(part).unwrap_or_else(|| panic!("{part:?} comes from nowhere"));
            assert_eq!(meaning(part, value), meaning(part, was), "{part:?}");
        }
    }
    for part in read.keys().filter(|part| !matches!(part, Part::Keys(_))) {
        assert!(stored.contains_key(part), "{part:?} is lost");
    }
    let (before, after) = (keys(read), keys(stored));
    assert!(after.iter().all(|(place, key)| before.get(place) == Some(key)));
}

/// Community tag and epoch, and the key.
fn keys(all: &Records) -> BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>> {
    let records = all.iter().filter(|(part, _)| matches!(part, Part::Keys(_)));
    let keys = records.flat_map(|(_, value)| {
        let (tag, rest) = value.split_at(16);
        let key = |key: &[u8]| ((tag.to_vec(), key[..8].to_vec()), key[8..].to_vec());
        rest.chunks(40).map(key).collect::<Vec<_>>()
    });
    keys.collect()
}

/// What a record says, however JSON is spelt; other records have one spelling.
fn meaning(part: &Part, value: &[u8]) -> Value {
    match part {
        Part::Enclave | Part::Community(_) | Part::Member(_) => {
            plain(serde_json::from_slice(value).expect("it was read"))
        }
        Part::Root | Part::File | Part::Revocations | Part::Keys(_) => Value::from(value),
    }
}

/// Without fields that say nothing, and addresses as they are written.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let says = |(_, v): &(String, Value)| !matches!(v, Value::Null | Value::Bool(false));
            Value::Object(
                fields
                    .into_iter()
                    .filter(says)
                    .map(|(key, v)| (key, plain(v)))
                    .collect(),
            )
        }
        Value::Array(all) => Value::Array(all.into_iter().map(plain).collect()),
        Value::String(text) => {
            let address = text.parse::<IpAddr>().map(|a| a.to_string()).ok();
            let endpoint = || text.parse::<SocketAddr>().map(|a| a.to_string()).ok();
            Value::String(address.or_else(endpoint).unwrap_or(text))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}
