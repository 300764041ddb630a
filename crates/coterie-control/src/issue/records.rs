//! The state of an enclave in parts, for a store that writes only what an operation changed.
//!
//! [`Enclave::take_records`] gives the parts that changed since it was called last; written in one transaction with whatever
//! else the operation means, they make the state that [`Enclave::from_records`] reads. An operation that failed is followed by
//! reading everything anew.

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coterie_crypto::{Secret, sign::SigningKey};
use coterie_model::{Authority, Name, Serial, Signed, UnixTime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{
    Enclave, IssueError,
    epoch::{CommunityRecord, EpochRecord},
    files::{
        CommunityState, EarlierState, EpochKeys, MemberState, bytes, damaged, read_community, read_earlier,
        read_member, signed,
    },
    revocations::{ReplacedState, read_replaced},
    roster::Roster,
};
use crate::bundle::{Freshness, certificate};

const VERSION: u8 = 1;

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Seeds of root and statement key. Secret.
    Root,
    /// The enclave file.
    File,
    /// Authority, root certificate, and what is counted for the whole enclave.
    Enclave,
    /// Who is refused.
    Revocations,
    /// Tag and epochs of a community.
    Community(Name),
    /// Keys of its epochs. Secret.
    Keys(Name),
    /// A member: serials and enrolment.
    Member(Name),
}

impl Part {
    /// The kind, as it is stored.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::File => "file",
            Self::Enclave => "enclave",
            Self::Revocations => "revocations",
            Self::Community(_) => "community",
            Self::Keys(_) => "keys",
            Self::Member(_) => "member",
        }
    }

    /// The name that tells it from others of its kind; empty where there is one.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Root | Self::File | Self::Enclave | Self::Revocations => "",
            Self::Community(name) | Self::Keys(name) | Self::Member(name) => name.as_str(),
        }
    }

    /// Whether it must not be stored in clear.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::Root | Self::Keys(_))
    }

    /// The part of a stored kind and key; `None` when there is no such kind.
    #[must_use]
    pub fn of(kind: &str, key: &str) -> Option<Self> {
        let name = || Name::new(key).ok();
        Some(match kind {
            "root" => Self::Root,
            "file" => Self::File,
            "enclave" => Self::Enclave,
            "revocations" => Self::Revocations,
            "community" => Self::Community(name()?),
            "keys" => Self::Keys(name()?),
            "member" => Self::Member(name()?),
            _ => return None,
        })
    }
}

/// A part and its bytes; `None`: it is gone.
#[derive(Debug)]
pub struct Record {
    /// Which.
    pub part: Part,
    /// What it says.
    pub value: Option<Zeroizing<Vec<u8>>>,
    /// Communities whose members are to be told, of a member the ones that it was in as well as those that it is in.
    pub concerns: BTreeSet<Name>,
}

/// Addresses that rest: whose they were, and until when (Unix seconds).
pub(super) type Resting = BTreeMap<IpAddr, (Name, u64)>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    version: u8,
    latest: u64,
    authority: String,
    root_certificate: String,
    floor: Serial,
    resting: Resting,
    served: bool,
    #[serde(default)]
    servers: Vec<SocketAddr>,
    #[serde(default)]
    earlier: Vec<EarlierState>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    replaced: ReplacedState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gap: Option<super::recover::Gap>,
}

impl Enclave {
    /// The parts that changed since the last call; all of them for an enclave that was made just now.
    pub fn take_records(&mut self) -> Vec<Record> {
        core::mem::take(&mut self.touched)
            .into_iter()
            .map(|(part, concerns)| {
                let value = self.value(&part);
                Record { part, value, concerns }
            })
            .collect()
    }

    /// Reads what [`Self::take_records`] gave, the newest of each part. Every signature is checked.
    ///
    /// # Errors
    /// [`IssueError::Damaged`], with the part.
    pub fn from_records(records: impl IntoIterator<Item = (Part, Zeroizing<Vec<u8>>)>) -> Result<Self, IssueError> {
        let mut records: BTreeMap<Part, Zeroizing<Vec<u8>>> = records.into_iter().collect();
        let mut take = |part: Part| {
            let missing = IssueError::Missing { path: part.kind() };
            records.remove(&part).ok_or(missing)
        };
        let (root, text, whole) = (take(Part::Root)?, take(Part::File)?, take(Part::Enclave)?);
        let revocations = take(Part::Revocations).ok();
        let (root_key, statement_key) = seeds(&root)?;
        let whole: Whole = json("enclave", &whole)?;
        if whole.version != VERSION {
            let reason = format!("version {}, this program reads {VERSION}", whole.version);
            return Err(damaged("enclave", reason));
        }
        let text = String::from_utf8(text.to_vec()).map_err(|error| damaged("file", error))?;
        let authority: Signed<Authority> = signed(&whole.authority, &root_key.verifying_key())?;
        if authority.statement_key != statement_key.verifying_key() {
            return Err(damaged("root", "it is not the key that the authority names"));
        }
        let root_certificate = bytes(&whole.root_certificate)?;
        certificate::check_root(&root_certificate, &root_key.verifying_key())
            .map_err(|error| damaged("enclave", error))?;
        let verifying_key = statement_key.verifying_key();
        let mut keys = EpochKeys::new();
        for (_, value) in records.iter().filter(|(part, _)| matches!(part, Part::Keys(_))) {
            read_keys(value, &mut keys)?;
        }
        let (mut communities, mut members) = (BTreeMap::new(), BTreeMap::new());
        for (part, value) in &records {
            match part {
                Part::Community(name) => {
                    let state: CommunityState = json("community", value)?;
                    communities.insert(name.clone(), read_community(name, &state, &verifying_key, &mut keys)?);
                }
                Part::Member(name) => {
                    let state: MemberState = json("member", value)?;
                    members.insert(name.clone(), read_member(name, state, &verifying_key)?);
                }
                Part::Root | Part::File | Part::Enclave | Part::Revocations | Part::Keys(_) => {}
            }
        }
        let earlier = read_earlier(&whole.earlier, &authority, &root_key)?;
        let revocations = revocations
            .map(|list| signed(&String::from_utf8_lossy(&list), &verifying_key))
            .transpose()?;
        let mut this = Self {
            file: super::parse(&text)?,
            text,
            root_key,
            root_certificate,
            statement_key,
            authority,
            communities,
            members,
            roster: Roster::default(),
            freshness: freshness(whole.served),
            servers: whole.servers,
            earlier,
            floor: whole.floor,
            resting: whole.resting,
            replaced: read_replaced(whole.replaced, revocations.as_ref())?,
            gap: whole.gap,
            revocations,
            latest: UnixTime(whole.latest),
            touched: BTreeMap::new(),
        };
        this.call_roll();
        this.sound()
    }

    fn value(&self, part: &Part) -> Option<Zeroizing<Vec<u8>>> {
        Some(match part {
            Part::Root => {
                let mut seeds = Zeroizing::new(Vec::with_capacity(64));
                seeds.extend_from_slice(self.root_key.seed().expose());
                seeds.extend_from_slice(self.statement_key.seed().expose());
                seeds
            }
            Part::File => Zeroizing::new(self.text.clone().into_bytes()),
            Part::Enclave => to_json(&Whole {
                version: VERSION,
                latest: self.latest.0,
                authority: STANDARD.encode(self.authority.bytes()),
                root_certificate: STANDARD.encode(&self.root_certificate),
                floor: self.floor,
                resting: self.resting.clone(),
                served: self.freshness == Freshness::Heads,
                servers: self.servers.clone(),
                earlier: self.earlier.iter().map(EarlierState::of).collect(),
                replaced: self.replaced_state(),
                gap: self.gap,
            }),
            Part::Revocations => Zeroizing::new(STANDARD.encode(self.revocations.as_ref()?.bytes()).into_bytes()),
            Part::Community(name) => to_json(&CommunityState::of(self.communities.get(name)?)),
            Part::Keys(name) => keys_of(self.communities.get(name)?),
            Part::Member(name) => to_json(&MemberState::of(self.members.get(name)?)),
        })
    }

    /// Everything is to be stored: [`Self::take_records`] gives all parts, as a store needs them that has none.
    pub fn touch_all(&mut self) {
        for part in [Part::Root, Part::File, Part::Enclave, Part::Revocations] {
            self.touch(part);
        }
        let (communities, members): (Vec<_>, Vec<_>) = (
            self.communities.keys().cloned().collect(),
            self.members.keys().cloned().collect(),
        );
        communities.iter().for_each(|name| self.touch_community(name));
        members.iter().for_each(|name| self.touch_member(name));
    }

    /// A part is to be stored.
    pub(super) fn touch(&mut self, part: Part) {
        self.touched.entry(part).or_default();
    }

    /// A community is to be stored, keys and all, which its members are to fetch.
    pub(super) fn touch_community(&mut self, name: &Name) {
        let concerns = self.touched.entry(Part::Keys(name.clone())).or_default();
        concerns.insert(name.clone());
        self.touch_manifests(name);
    }

    /// Epochs of a community are to be stored, and its members to be told.
    pub(super) fn touch_manifests(&mut self, name: &Name) {
        let concerns = self.touched.entry(Part::Community(name.clone())).or_default();
        concerns.insert(name.clone());
    }

    /// A member is to be stored, and whoever shares a community that it is in now to be told.
    pub(super) fn touch_member(&mut self, name: &Name) {
        let communities = self.roster.get(name).map(|m| m.communities.clone());
        let concerns = self.touched.entry(Part::Member(name.clone())).or_default();
        concerns.extend(communities.unwrap_or_default());
    }
}

/// Whether a server tells heads.
pub(super) fn freshness(served: bool) -> Freshness {
    if served { Freshness::Heads } else { Freshness::Offline }
}

fn seeds(root: &[u8]) -> Result<(SigningKey, SigningKey), IssueError> {
    let wrong = || damaged("root", format!("two seeds have 64 bytes, here are {}", root.len()));
    let (first, second) = root.split_at_checked(32).ok_or_else(wrong)?;
    let key = |seed| Secret::from_slice(seed).map(SigningKey::from_seed);
    key(first).zip(key(second)).ok_or_else(wrong)
}

/// Tag, then epoch and key of each epoch whose key there is.
fn keys_of(community: &CommunityRecord) -> Zeroizing<Vec<u8>> {
    let keys: Vec<_> = community.epochs.iter().filter_map(EpochRecord::epoch_key).collect();
    // Room for everything at once: a buffer that grows leaves copies of secrets behind.
    let mut body = Zeroizing::new(Vec::with_capacity(16 + 40 * keys.len()));
    body.extend_from_slice(&community.tag.0);
    for key in &keys {
        body.extend_from_slice(&key.epoch.to_be_bytes());
        body.extend_from_slice(key.key.expose());
    }
    body
}

fn read_keys(value: &[u8], keys: &mut EpochKeys) -> Result<(), IssueError> {
    let mut r = coterie_model::Reader::new(value);
    let mut read = || {
        let tag = coterie_model::CommunityTag(r.array("community tag")?);
        while r.remaining() > 0 {
            let epoch = r.u64("epoch")?;
            let key = r
                .take(32, "key")
                .map(|b| Secret::from_slice(b).expect("32 bytes were taken"))?;
            keys.insert((tag, epoch), key);
        }
        Ok::<_, coterie_model::Malformed>(())
    };
    read().map_err(|error| damaged("keys", error))
}

fn to_json<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(serde_json::to_vec(value).expect("names and strings are JSON"))
}

fn json<T: DeserializeOwned>(part: &'static str, bytes: &[u8]) -> Result<T, IssueError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(part, error))
}
