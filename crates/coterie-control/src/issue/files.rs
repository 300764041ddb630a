//! The files of an enclave directory.
//!
//! | file | holds | secret |
//! |---|---|---|
//! | `root.key` | seed of the root key; written once, and when the root is replaced | yes |
//! | `statement.key` | seed of the statement key; written once | yes |
//! | `epochs.key` | community keys | yes |
//! | `enclave.toml` | the enclave file as it was taken last | no |
//! | `root.pem` | the root's certificate, for other programs; not read | no |
//! | `state.json` | everything else, signed objects in base64 | no |
//!
//! `state.json` is the last to be written. It names every epoch; a key in `epochs.key` that it does not name was drawn by
//! a run that did not get to its end, was given to nobody and is dropped.

use core::fmt::Display;
use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coterie_crypto::{
    Secret,
    sign::{SigningKey, VerifyingKey},
};
use coterie_model::{
    Authority, CommunityTag, Manifest, MemberId, Name, Reader, Serial, Signed, SignedObject, Statement, UnixTime,
    Unverified, commitment,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Enclave, IssueError,
    epoch::{CommunityRecord, EpochRecord},
    member::{Enrolment, MemberRecord},
    records::{Resting, freshness},
    revocations::{ReplacedState, read_replaced},
    roster::{Provisioned, Roster},
    rotate::Earlier,
};
use crate::bundle::{
    Freshness, Headers, MAX_SUCCESSIONS, Request, Succession, certificate, decode_armour, encode_armour, to_pem,
};

const ROOT: &str = "root.key";
const STATEMENT: &str = "statement.key";
pub(super) const EPOCHS: &str = "epochs.key";
const TEXT: &str = "enclave.toml";
const PEM: &str = "root.pem";
pub(super) const STATE: &str = "state.json";

/// Every file that [`Enclave::to_files`] writes.
pub const WRITTEN: [&str; 6] = [ROOT, STATEMENT, EPOCHS, TEXT, PEM, STATE];

const ROOT_LABEL: &str = "COTERIE ROOT KEY";
const STATEMENT_LABEL: &str = "COTERIE STATEMENT KEY";
const EPOCHS_LABEL: &str = "COTERIE EPOCH KEYS";
const VERSION: u8 = 1;

/// A file of an enclave directory.
#[derive(Debug)]
pub struct StoredFile {
    /// Relative to the directory.
    pub path: &'static str,
    /// Its bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Whether only its owner may read it (mode 0600).
    pub secret: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u8,
    latest: u64,
    authority: String,
    root_certificate: String,
    communities: BTreeMap<Name, CommunityState>,
    members: BTreeMap<Name, MemberState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocations: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    floor: Serial,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    resting: Resting,
    #[serde(default, skip_serializing_if = "is_false")]
    served: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    servers: Vec<SocketAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<EarlierState>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    replaced: ReplacedState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gap: Option<super::recover::Gap>,
}

/// A root that went.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlierState {
    succession: String,
    certificate: String,
    cross: String,
    until: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CommunityState {
    tag: String,
    epochs: Vec<EpochState>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochState {
    manifest: String,
    handed_out: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberState {
    serial: Serial,
    statement_serial: Serial,
    #[serde(skip_serializing_if = "Option::is_none")]
    enrolment: Option<EnrolmentState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provisioned: Option<ProvisionedState>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProvisionedState {
    template: Name,
    addresses: Vec<IpAddr>,
    endpoints: Vec<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentState {
    member: String,
    request: String,
    statements: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    isolated: bool,
    ends: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    applied_from: Vec<SocketAddr>,
}

impl Enclave {
    /// The files of the directory, in the order in which they are to be written; each by renaming a whole new file over
    /// the old one. A file that is the same need not be written.
    #[must_use]
    pub fn to_files(&self) -> Vec<StoredFile> {
        let seed = |label, key: &SigningKey| {
            let body = Zeroizing::new([&[VERSION], &key.seed().expose()[..]].concat());
            secret_text(label, &key_headers(key), &body)
        };
        let state = serde_json::to_string_pretty(&self.state()).expect("names and strings are JSON");
        vec![
            StoredFile {
                path: ROOT,
                bytes: seed(ROOT_LABEL, &self.root_key),
                secret: true,
            },
            StoredFile {
                path: STATEMENT,
                bytes: seed(STATEMENT_LABEL, &self.statement_key),
                secret: true,
            },
            StoredFile {
                path: EPOCHS,
                bytes: secret_text(EPOCHS_LABEL, &headers(self.name()), &self.epoch_keys()),
                secret: true,
            },
            public(TEXT, self.text.clone()),
            public(PEM, to_pem(&self.root_certificate)),
            public(STATE, state + "\n"),
        ]
    }

    /// Reads the directory; `read` gives a file of it, or `None` where it is missing. Every signature is checked.
    ///
    /// # Errors
    /// [`IssueError::Missing`] or [`IssueError::Damaged`], with the file.
    pub fn from_files(mut read: impl FnMut(&str) -> Option<Vec<u8>>) -> Result<Self, IssueError> {
        let mut file = |path| read(path).map(Zeroizing::new).ok_or(IssueError::Missing { path });
        let root_key = signing_key(ROOT, ROOT_LABEL, &file(ROOT)?)?;
        let statement_key = signing_key(STATEMENT, STATEMENT_LABEL, &file(STATEMENT)?)?;
        let keys = file(EPOCHS)?;
        let state: State = serde_json::from_slice(&file(STATE)?).map_err(|error| damaged(STATE, error))?;
        if state.version != VERSION {
            return Err(damaged(
                STATE,
                format!("version {}, this program reads {VERSION}", state.version),
            ));
        }
        let text = String::from_utf8(file(TEXT)?.to_vec()).map_err(|error| damaged(TEXT, error))?;

        let authority: Signed<Authority> = signed(&state.authority, &root_key.verifying_key())?;
        if authority.statement_key != statement_key.verifying_key() {
            return Err(damaged(STATEMENT, "it is not the key that the authority names"));
        }
        let mut keys = read_epoch_keys(&keys, &headers(&authority.name))?;
        let root_certificate = bytes(&state.root_certificate)?;
        certificate::check_root(&root_certificate, &root_key.verifying_key()).map_err(|error| damaged(STATE, error))?;
        let verifying_key = statement_key.verifying_key();
        let communities = state
            .communities
            .into_iter()
            .map(|(name, community)| {
                let record = read_community(&name, &community, &verifying_key, &mut keys)?;
                Ok((name, record))
            })
            .collect::<Result<_, IssueError>>()?;
        let members = state
            .members
            .into_iter()
            .map(|(name, member)| {
                let record = read_member(&name, member, &verifying_key)?;
                Ok((name, record))
            })
            .collect::<Result<_, IssueError>>()?;
        let earlier = read_earlier(&state.earlier, &authority, &root_key)?;
        let revocations = state
            .revocations
            .map(|list| signed(&list, &verifying_key))
            .transpose()?;
        let mut this = Self {
            file: super::parse(&text)?,
            roster: Roster::default(),
            freshness: freshness(state.served),
            servers: state.servers,
            earlier,
            floor: state.floor,
            resting: state.resting,
            text,
            root_key,
            root_certificate,
            statement_key,
            authority,
            communities,
            members,
            replaced: read_replaced(state.replaced, revocations.as_ref())?,
            gap: state.gap,
            revocations,
            latest: UnixTime(state.latest),
            touched: BTreeMap::new(),
        };
        this.call_roll();
        this.sound()
    }

    fn state(&self) -> State {
        let communities = self
            .communities
            .iter()
            .map(|(name, community)| (name.clone(), CommunityState::of(community)));
        let members = self
            .members
            .iter()
            .map(|(name, record)| (name.clone(), MemberState::of(record)));
        State {
            version: VERSION,
            latest: self.latest.0,
            authority: STANDARD.encode(self.authority.bytes()),
            root_certificate: STANDARD.encode(&self.root_certificate),
            communities: communities.collect(),
            members: members.collect(),
            revocations: self.revocations.as_ref().map(|list| STANDARD.encode(list.bytes())),
            floor: self.floor,
            resting: self.resting.clone(),
            served: self.freshness == Freshness::Heads,
            servers: self.servers.clone(),
            earlier: self.earlier.iter().map(EarlierState::of).collect(),
            replaced: self.replaced_state(),
            gap: self.gap,
        }
    }

    fn epoch_keys(&self) -> Zeroizing<Vec<u8>> {
        let keys: Vec<_> = self
            .communities
            .values()
            .flat_map(|c| &c.epochs)
            .filter_map(EpochRecord::epoch_key)
            .collect();
        let count = u32::try_from(keys.len()).expect("far fewer epochs than 2^32 fit into memory");
        // Room for everything at once: a buffer that grows leaves copies of secrets behind.
        let mut body = Zeroizing::new(Vec::with_capacity(5 + 56 * keys.len()));
        body.push(VERSION);
        body.extend_from_slice(&count.to_be_bytes());
        for key in &keys {
            body.extend_from_slice(&key.tag.0);
            body.extend_from_slice(&key.epoch.to_be_bytes());
            body.extend_from_slice(key.key.expose());
        }
        body
    }
}

impl EarlierState {
    pub(super) fn of(earlier: &Earlier) -> Self {
        Self {
            succession: STANDARD.encode(earlier.succession.bytes()),
            certificate: STANDARD.encode(&earlier.certificate),
            cross: STANDARD.encode(&earlier.cross),
            until: earlier.until.0,
        }
    }
}

impl CommunityState {
    pub(super) fn of(community: &CommunityRecord) -> Self {
        let epochs = community.epochs.iter().map(|epoch| EpochState {
            manifest: STANDARD.encode(epoch.manifest.bytes()),
            handed_out: epoch.handed_out,
        });
        Self {
            tag: STANDARD.encode(community.tag.0),
            epochs: epochs.collect(),
        }
    }
}

impl MemberState {
    pub(super) fn of(record: &MemberRecord) -> Self {
        let enrolment = record.enrolment.as_ref().map(|e| EnrolmentState {
            member: STANDARD.encode(e.member.0),
            request: STANDARD.encode(e.request.bytes()),
            statements: e.statements.values().map(|s| STANDARD.encode(s.bytes())).collect(),
            isolated: e.isolated,
            ends: e.ends.0,
            applied_from: e.applied_from.clone(),
        });
        let provisioned = record.provisioned.as_ref().map(|p| ProvisionedState {
            template: p.template.clone(),
            addresses: p.addresses.clone(),
            endpoints: p.endpoints.clone(),
        });
        Self {
            serial: record.serial,
            statement_serial: record.statement_serial,
            enrolment,
            provisioned,
        }
    }
}

/// Roots that lead to `root`: each names and certifies the next one.
pub(super) fn read_earlier(
    all: &[EarlierState],
    authority: &Authority,
    root: &SigningKey,
) -> Result<Vec<Earlier>, IssueError> {
    if all.len() > MAX_SUCCESSIONS {
        let reason = format!("{} roots before this one, more than {MAX_SUCCESSIONS}", all.len());
        return Err(damaged(STATE, reason));
    }
    let (mut next, mut earlier) = (root.verifying_key(), Vec::new());
    for state in all.iter().rev() {
        let word = Unverified::<Succession>::parse(&bytes(&state.succession)?);
        let word = word.map_err(|error| damaged(STATE, error))?;
        let from = word.claimed().from;
        let word = word.verify(&from).ok();
        let succession = word.filter(|word| word.to == next && word.enclave == authority.enclave);
        let succession = succession.ok_or_else(|| damaged(STATE, "a root was not named by the one before it"))?;
        let (certificate, cross) = (bytes(&state.certificate)?, bytes(&state.cross)?);
        certificate::check_root(&certificate, &from)
            .and_then(|()| certificate::check_cross(&cross, &from, &next))
            .map_err(|error| damaged(STATE, error))?;
        earlier.push(Earlier {
            succession,
            certificate,
            cross,
            until: UnixTime(state.until),
        });
        next = from;
    }
    earlier.reverse();
    Ok(earlier)
}

pub(super) type EpochKeys = BTreeMap<(CommunityTag, u64), Secret<32>>;

pub(super) fn read_community(
    name: &Name,
    state: &CommunityState,
    key: &VerifyingKey,
    keys: &mut EpochKeys,
) -> Result<CommunityRecord, IssueError> {
    let tag = CommunityTag(array(&state.tag)?);
    let mut epochs = Vec::new();
    for epoch in &state.epochs {
        let manifest: Signed<Manifest> = signed(&epoch.manifest, key)?;
        if manifest.tag != tag || manifest.name != *name {
            return Err(damaged(
                STATE,
                format!("a manifest of `{name}` is of another community"),
            ));
        }
        let secret = keys.remove(&(tag, manifest.epoch));
        if secret
            .as_ref()
            .is_some_and(|key| commitment(tag, manifest.epoch, key) != manifest.commitment)
        {
            return Err(damaged(
                EPOCHS,
                format!("another key of epoch {} of `{}`", manifest.epoch, manifest.name),
            ));
        }
        epochs.push(EpochRecord {
            manifest,
            key: secret,
            handed_out: epoch.handed_out,
        });
    }
    if epochs.is_empty() || !epochs.is_sorted_by(|a, b| a.manifest.epoch < b.manifest.epoch) {
        return Err(damaged(STATE, "epochs of a community are missing or out of order"));
    }
    Ok(CommunityRecord { tag, epochs })
}

pub(super) fn read_member(name: &Name, state: MemberState, key: &VerifyingKey) -> Result<MemberRecord, IssueError> {
    let enrolment = state.enrolment.map(|e| {
        let member = MemberId(array(&e.member)?);
        let request = Request::from_bytes(&bytes(&e.request)?).map_err(|error| damaged(STATE, error))?;
        let statements = e.statements.iter().map(|statement| signed(statement, key));
        let statements: Vec<Signed<Statement>> = statements.collect::<Result<_, IssueError>>()?;
        let own = |s: &Signed<Statement>| (&s.name, s.member, s.static_key) == (name, member, *request.static_key());
        if request.name() != name || !statements.iter().all(own) || !statements.is_sorted_by(|a, b| a.tag < b.tag) {
            let reason = format!("the enrolment of `{name}` is another member's, or says something twice");
            return Err(damaged(STATE, reason));
        }
        Ok(Enrolment {
            member,
            request,
            statements: statements.into_iter().map(|s| (s.tag, s)).collect(),
            isolated: e.isolated,
            ends: UnixTime(e.ends),
            applied_from: e.applied_from,
        })
    });
    Ok(MemberRecord {
        serial: state.serial,
        statement_serial: state.statement_serial,
        enrolment: enrolment.transpose()?,
        provisioned: state.provisioned.map(|p| Provisioned {
            template: p.template,
            addresses: p.addresses,
            endpoints: p.endpoints,
        }),
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(serial: &Serial) -> bool {
    *serial == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn read_epoch_keys(text: &[u8], headers: &Headers) -> Result<EpochKeys, IssueError> {
    let armoured = decode_armour(EPOCHS_LABEL, text).map_err(|error| damaged(EPOCHS, error))?;
    armoured
        .check_headers(headers)
        .map_err(|error| damaged(EPOCHS, error))?;
    let parse = || {
        let mut r = Reader::new(&armoured.body);
        let bad = r.malformed("version");
        if r.u8("version")? != VERSION {
            return Err(bad);
        }
        let mut keys = BTreeMap::new();
        for _ in 0..r.u32("count")? {
            let place = (CommunityTag(r.array("community tag")?), r.u64("epoch")?);
            let key = r
                .take(32, "key")
                .map(|b| Secret::from_slice(b).expect("32 bytes were taken"))?;
            keys.insert(place, key);
        }
        r.finish()?;
        Ok(keys)
    };
    parse().map_err(|error| damaged(EPOCHS, error))
}

fn signing_key(path: &'static str, label: &'static str, text: &[u8]) -> Result<SigningKey, IssueError> {
    let armoured = decode_armour(label, text).map_err(|error| damaged(path, error))?;
    let Some((&VERSION, seed)) = armoured.body.split_first() else {
        return Err(damaged(path, format!("another version than {VERSION}")));
    };
    let key = Secret::from_slice(seed)
        .map(SigningKey::from_seed)
        .ok_or_else(|| damaged(path, format!("a seed has 32 bytes, this has {}", seed.len())))?;
    // The public key in the header tells a damaged seed from the seed of another key.
    armoured
        .check_headers(&key_headers(&key))
        .map_err(|error| damaged(path, error))?;
    Ok(key)
}

fn key_headers(key: &SigningKey) -> Headers {
    vec![(
        "Public",
        key.verifying_key().0.iter().map(|b| format!("{b:02x}")).collect(),
    )]
}

fn headers(name: &Name) -> Headers {
    vec![("Enclave", name.to_string())]
}

fn secret_text(label: &str, headers: &Headers, body: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(encode_armour(label, headers, body).as_bytes().to_vec())
}

fn public(path: &'static str, text: String) -> StoredFile {
    StoredFile {
        path,
        bytes: Zeroizing::new(text.into_bytes()),
        secret: false,
    }
}

pub(super) fn signed<T: SignedObject>(text: &str, key: &VerifyingKey) -> Result<Signed<T>, IssueError> {
    let object = Unverified::<T>::parse(&bytes(text)?).map_err(|error| damaged(STATE, error))?;
    object
        .verify(key)
        .map_err(|_refused| damaged(STATE, format!("the signature of {} does not check", T::LABEL)))
}

pub(super) fn bytes(text: &str) -> Result<Vec<u8>, IssueError> {
    STANDARD.decode(text).map_err(|error| damaged(STATE, error))
}

pub(super) fn array<const N: usize>(text: &str) -> Result<[u8; N], IssueError> {
    bytes(text)?
        .try_into()
        .map_err(|_length| damaged(STATE, format!("an identifier does not have {N} bytes")))
}

pub(super) fn damaged(path: &'static str, reason: impl Display) -> IssueError {
    IssueError::Damaged {
        path,
        reason: reason.to_string(),
    }
}
