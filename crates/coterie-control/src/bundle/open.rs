//! From a file to what a node runs on.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use coterie_crypto::sign::VerifyingKey;
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, EpochKey, Head, Manifest, MemberId, Name, Prefix, Revocations, Serial,
    Signed, SignedObject, Statement, UnixTime, Unverified, commitment, signed::head_hash,
};

use super::{
    Freshness, Keys, LABEL, TemplateSettings,
    armour::{self, Headers},
    certificate::{self, CertificateError, member_uri},
    date,
    delivery::{self, Address, Delivered},
    error::BundleError,
    format::{self, Content, Front, Offsets, SIGNATURE_LABEL},
    root_hash, succession, view,
};

/// Where the authority stands: behind version, length and root key.
const AUTHORITY_AT: usize = 37;

/// A bundle of which nothing was checked but its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    front: Front,
    bytes: Vec<u8>,
}

/// What a node runs on. Everything in it was checked, from the root on.
#[derive(Debug)]
pub struct Opened {
    /// Who may sign for the enclave.
    pub authority: Signed<Authority>,
    /// The enclave's root.
    pub root: VerifyingKey,
    /// The member: this enrolment.
    pub member: MemberId,
    /// The member's name.
    pub name: Name,
    /// Community keys, current and next; each one has its manifest.
    pub keys: Vec<EpochKey>,
    /// The member's statements, one for each of its communities.
    pub statements: Vec<Signed<Statement>>,
    /// All epochs of these communities that have not retired: one that is not named has.
    pub manifests: Vec<Signed<Manifest>>,
    /// The other members of these communities, where [`Self::has_views`].
    pub directory: Vec<DirectoryEntry>,
    /// False in a bundle that renews a membership with a server: it says nothing of who else is there, as the stream does, and
    /// whoever is known stays known.
    pub has_views: bool,
    /// Who is refused.
    pub revocations: Option<Signed<Revocations>>,
    /// The newest head, where there is a server.
    pub head: Option<Signed<Head>>,
    /// How the member behaves.
    pub template: TemplateSettings,
    /// Networks that inside addresses of the enclave come from.
    pub pools: Vec<Prefix>,
    /// UDP port of the outside socket.
    pub port: u16,
    /// Largest inside packet in bytes; `None` leaves it to the node.
    pub mtu: Option<u16>,
    /// Gateways of the enclave, best first; none in an enclave without.
    pub gateways: Vec<SocketAddr>,
    /// Where the enclave's server is (TCP), in the order in which they are to be tried; none in an enclave without.
    pub servers: Vec<SocketAddr>,
    /// What tells that membership goes on.
    pub freshness: Freshness,
    /// When the bundle was issued.
    pub issued: UnixTime,
    /// When its lease ends.
    pub not_after: UnixTime,
    /// To be stored: a bundle with a lower one is refused from now on.
    pub serial: Serial,
    /// The root's certificate (DER), to be trusted in mutual TLS.
    pub root_certificate: Vec<u8>,
    /// The member's certificate for mutual TLS (DER), for [`Keys::identity_key`].
    pub identity_certificate: Vec<u8>,
    /// The certificate with the wrapped keys (DER): to be shown to nobody.
    pub bundle_certificate: Vec<u8>,
}

impl Bundle {
    /// Reads a bundle file, at most [`armour::MAX_BYTES`].
    ///
    /// # Errors
    /// [`BundleError`] when it is empty, no bundle, truncated, no base64, of another version, or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let armoured = armour::decode(LABEL, bytes)?;
        let front = format::decode_front(&armoured.body)?;
        armoured.check_headers(&headers(&front))?;
        Ok(Self {
            front,
            bytes: armoured.body.to_vec(),
        })
    }

    /// The member that it claims to be for.
    #[must_use]
    pub fn claimed_name(&self) -> &Name {
        &self.front.name
    }

    /// The serial that it claims.
    #[must_use]
    pub fn claimed_serial(&self) -> Serial {
        self.front.serial
    }

    /// When it claims to end.
    #[must_use]
    pub fn claimed_not_after(&self) -> UnixTime {
        self.front.not_after
    }

    /// [`root_hash`] of the root that it claims: for a person to compare before it is trusted.
    #[must_use]
    pub fn claimed_root(&self) -> [u8; 32] {
        root_hash(&self.front.root)
    }

    /// Checks everything and opens it with the keys of this machine.
    ///
    /// `trust` is [`root_hash`] of the enclave's root, where this machine knows it, or of a root that was before it and has named
    /// it; [`root_hash`] of [`Opened::root`] is what is to be trusted from then on. Without it the bundle's own root is
    /// believed, which is right only where the file itself came by a trusted way. `now` is protocol time. `floor` is the
    /// highest serial that was accepted before for this member, 0 for none.
    ///
    /// # Errors
    /// [`BundleError`]; then nothing of the bundle may be used.
    pub fn open(
        &self,
        keys: &Keys,
        trust: Option<[u8; 32]>,
        now: UnixTime,
        floor: Serial,
    ) -> Result<Opened, BundleError> {
        let authority = self.check_chain(trust)?;
        let (content, at) = format::decode_content(&self.bytes)?;
        if content.static_key != *keys.static_key().public() {
            return Err(self.wrong_machine("static key", at.static_key));
        }
        self.check_times(&authority, &at, now, floor)?;
        let delivered = self.open_delivery(&content, &at, &authority, keys, now)?;
        let (revocations, head) = lists(&content, &authority)?;
        let statements = self.statements(&content, &authority)?;
        let manifests = manifests(&content, &authority)?;
        check_keys(&delivered, &manifests, &statements)?;
        let directory = self.directory(&content, &delivered, &authority)?;
        Ok(Opened {
            root: self.front.root,
            member: content.member,
            name: self.front.name.clone(),
            keys: delivered.keys,
            statements,
            manifests,
            directory,
            has_views: !content.views.is_empty(),
            revocations,
            head,
            template: content.template,
            pools: content.pools,
            port: content.port,
            mtu: content.mtu,
            gateways: content.gateways,
            servers: content.servers,
            freshness: content.freshness,
            issued: self.front.issued,
            not_after: self.front.not_after,
            serial: self.front.serial,
            root_certificate: content.root_certificate,
            identity_certificate: content.identity_certificate,
            bundle_certificate: content.bundle_certificate,
            authority,
        })
    }

    /// Root, authority, and the bundle as a whole.
    fn check_chain(&self, trust: Option<[u8; 32]>) -> Result<Signed<Authority>, BundleError> {
        let front = &self.front;
        let found = root_hash(&front.root);
        let earlier = || front.successions.iter().map(|link| root_hash(&link.claimed().from));
        if let Some(trusted) = trust.filter(|trusted| *trusted != found && !earlier().any(|root| root == *trusted)) {
            return Err(BundleError::Foreign {
                enclave: front.authority.claimed().name.clone(),
                found,
                trusted,
            });
        }
        let authority = front
            .authority
            .clone()
            .verify(&front.root)
            .map_err(|_refused| BundleError::Edited {
                field: "authority",
                offset: AUTHORITY_AT,
            })?;
        succession::check(&front.successions, &front.root, authority.enclave).map_err(|number| {
            let before = front.successions.iter().take(number);
            BundleError::Edited {
                field: "succession",
                offset: AUTHORITY_AT
                    + (2 + authority.bytes().len() + 1)
                    + before.map(|link| 2 + link.bytes().len()).sum::<usize>(),
            }
        })?;
        let edited = BundleError::Edited {
            field: "bundle",
            offset: 0,
        };
        let (body, signature) = format::split(&self.bytes).ok_or_else(|| edited.clone())?;
        authority
            .statement_key
            .verify(SIGNATURE_LABEL, body, signature)
            .map_err(|_refused| edited)?;
        Ok(authority)
    }

    fn wrong_machine(&self, field: &'static str, offset: usize) -> BundleError {
        BundleError::WrongMachine {
            field,
            offset,
            member: self.front.name.clone(),
        }
    }

    fn check_times(
        &self,
        authority: &Authority,
        at: &Offsets,
        now: UnixTime,
        floor: Serial,
    ) -> Result<(), BundleError> {
        let front = &self.front;
        if front.serial < floor {
            return Err(BundleError::RolledBack {
                offset: at.serial,
                serial: front.serial,
                floor,
            });
        }
        let ends = [
            ("not-after", at.not_after, front.not_after),
            ("authority", AUTHORITY_AT, authority.not_after),
        ];
        match ends.into_iter().find(|(_, _, ended)| now >= *ended) {
            Some((field, offset, ended)) => Err(BundleError::Expired {
                field,
                offset,
                ended,
                now,
            }),
            None => Ok(()),
        }
    }

    /// The certificates, and the keys in one of them.
    fn open_delivery(
        &self,
        content: &Content,
        at: &Offsets,
        authority: &Authority,
        keys: &Keys,
        now: UnixTime,
    ) -> Result<Delivered, BundleError> {
        let (root, identity_key) = (&self.front.root, keys.identity_key().verifying_key());
        let uri = member_uri(&authority.name, &self.front.name);
        let check = |field, offset, der| {
            certificate::check(der, root, &uri, &identity_key, now).map_err(|error| {
                if error == CertificateError::Key {
                    return self.wrong_machine(field, offset);
                }
                BundleError::Certificate { field, offset, error }
            })
        };
        certificate::check_root(&content.root_certificate, root).map_err(|error| BundleError::Certificate {
            field: "root certificate",
            offset: at.root_certificate,
            error,
        })?;
        check(
            "identity certificate",
            at.identity_certificate,
            &content.identity_certificate,
        )?;
        let (field, offset) = ("bundle certificate", at.bundle_certificate);
        let wrapped = check(field, offset, &content.bundle_certificate)?;
        let wrapped = wrapped.ok_or(BundleError::Certificate {
            field,
            offset,
            error: CertificateError::Extension,
        })?;
        let address = Address {
            enclave: authority.enclave,
            member: content.member,
            serial: self.front.serial,
            static_key: &content.static_key,
            identity_key: &identity_key,
        };
        let odd = |number, reason| BundleError::Inconsistent {
            field: "wrapped keys",
            number,
            reason,
        };
        delivery::open(&address, &keys.opening_key(), &wrapped).map_err(|fault| match fault {
            delivery::Fault::Malformed(malformed) => malformed.into(),
            delivery::Fault::Version(found) => BundleError::Version { found },
            delivery::Fault::Suite(_) => odd(1, "sealed with another suite than X-Wing, HKDF-SHA-256, AES-256-GCM"),
            delivery::Fault::Sealed => self.wrong_machine("wrapped keys", offset),
            delivery::Fault::Wrapped(index) => odd(index + 1, "does not unwrap"),
        })
    }

    fn statements(
        &self,
        content: &Content,
        authority: &Signed<Authority>,
    ) -> Result<Vec<Signed<Statement>>, BundleError> {
        let mut statements: Vec<Signed<Statement>> = Vec::new();
        for (index, bytes) in content.statements.iter().enumerate() {
            let odd = |reason| BundleError::Inconsistent {
                field: "statements",
                number: index + 1,
                reason,
            };
            let statement: Signed<Statement> = verify(bytes, &authority.statement_key, "statements", index + 1)?;
            if (statement.era, statement.enclave) != (authority.era, authority.enclave) {
                return Err(odd("is of another enclave or era"));
            }
            if statement.static_key != content.static_key || statement.member != content.member {
                return Err(odd("is about another member"));
            }
            if statement.name != self.front.name {
                return Err(odd("has another member name"));
            }
            if statements.iter().any(|other| other.tag == statement.tag) {
                return Err(odd("names a community twice"));
            }
            statements.push(statement);
        }
        Ok(statements)
    }

    fn directory(
        &self,
        content: &Content,
        delivered: &Delivered,
        authority: &Signed<Authority>,
    ) -> Result<Vec<DirectoryEntry>, BundleError> {
        let place = view::Place {
            member: content.member,
            serial: self.front.serial,
        };
        let mut directory: BTreeMap<Name, DirectoryEntry> = BTreeMap::new();
        for (index, sealed) in content.views.iter().enumerate() {
            let odd = |reason| BundleError::Inconsistent {
                field: "views",
                number: index + 1,
                reason,
            };
            let tag = delivered
                .tag(&sealed.label)
                .ok_or_else(|| odd("is of a community that has no key here"))?;
            let key = delivered
                .keys
                .iter()
                .find(|key| key.tag == tag && key.epoch == sealed.epoch)
                .ok_or_else(|| odd("is of an epoch that has no key here"))?;
            let entries = view::open(place, sealed, key).map_err(|fault| match fault {
                view::Fault::Sealed => odd("does not open under its community's key"),
                view::Fault::Malformed(malformed) => malformed.into(),
            })?;
            for entry in entries {
                merge(&mut directory, verify_entry(entry, tag, authority).map_err(odd)?);
            }
        }
        Ok(directory.into_values().collect())
    }
}

impl From<format::Fault> for BundleError {
    fn from(fault: format::Fault) -> Self {
        match fault {
            format::Fault::Version(found) => Self::Version { found },
            format::Fault::Length { stated, actual } => Self::Length { stated, actual },
            format::Fault::Malformed(malformed) => Self::Malformed(malformed),
        }
    }
}

/// The lines that people read; a function of the bundle.
pub(crate) fn headers(front: &Front) -> Headers {
    let root: String = root_hash(&front.root).iter().map(|b| format!("{b:02x}")).collect();
    vec![
        ("Enclave", front.authority.claimed().name.to_string()),
        ("Member", front.name.to_string()),
        ("Issued", date::text(front.issued)),
        ("Expires", date::text(front.not_after)),
        ("Serial", front.serial.to_string()),
        ("Root", root),
    ]
}

fn manifests(content: &Content, authority: &Signed<Authority>) -> Result<Vec<Signed<Manifest>>, BundleError> {
    let mut manifests: Vec<Signed<Manifest>> = Vec::new();
    for (index, bytes) in content.manifests.iter().enumerate() {
        let odd = |reason| BundleError::Inconsistent {
            field: "manifests",
            number: index + 1,
            reason,
        };
        let manifest: Signed<Manifest> = verify(bytes, &authority.statement_key, "manifests", index + 1)?;
        if (manifest.era, manifest.enclave) != (authority.era, authority.enclave) {
            return Err(odd("is of another enclave or era"));
        }
        if manifests
            .iter()
            .any(|other| (other.tag, other.epoch) == (manifest.tag, manifest.epoch))
        {
            return Err(odd("names an epoch twice"));
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

/// Each key is the one of its manifest, each key's community is the member's, and no community is without a key.
fn check_keys(
    delivered: &Delivered,
    manifests: &[Signed<Manifest>],
    statements: &[Signed<Statement>],
) -> Result<(), BundleError> {
    for (index, key) in delivered.keys.iter().enumerate() {
        let odd = |reason| BundleError::Inconsistent {
            field: "wrapped keys",
            number: index + 1,
            reason,
        };
        let manifest = manifests
            .iter()
            .find(|m| m.tag == key.tag && m.epoch == key.epoch)
            .ok_or_else(|| odd("has no manifest"))?;
        if manifest.commitment != commitment(key.tag, key.epoch, &key.key) {
            return Err(odd("is not the key that its manifest commits to"));
        }
        if !statements.iter().any(|s| s.tag == key.tag) {
            return Err(odd("is of a community that the member is not stated to be in"));
        }
    }
    for (index, statement) in statements.iter().enumerate() {
        if !delivered.keys.iter().any(|key| key.tag == statement.tag) {
            let reason = "is of a community that has no key here";
            return Err(BundleError::Inconsistent {
                field: "statements",
                number: index + 1,
                reason,
            });
        }
    }
    Ok(())
}

fn verify_entry(
    entry: DirectoryEntry<Unverified<Statement>>,
    tag: CommunityTag,
    authority: &Signed<Authority>,
) -> Result<DirectoryEntry, &'static str> {
    if entry.communities != [tag] {
        return Err("has an entry of another community");
    }
    let mut statements = Vec::with_capacity(entry.statements.len());
    for statement in entry.statements {
        let statement = statement
            .verify(&authority.statement_key)
            .map_err(|_refused| "has an entry with a statement whose signature does not check")?;
        let place = (statement.era, statement.enclave, statement.tag);
        if place != (authority.era, authority.enclave, tag) || statement.name != entry.name {
            return Err("has an entry with a statement about something else");
        }
        statements.push(statement);
    }
    Ok(DirectoryEntry {
        name: entry.name,
        communities: entry.communities,
        addresses: entry.addresses,
        endpoints: entry.endpoints,
        statements,
    })
}

/// Adds what one community's view says of a member to what others said.
fn merge(directory: &mut BTreeMap<Name, DirectoryEntry>, entry: DirectoryEntry) {
    match directory.get_mut(&entry.name) {
        Some(known) => {
            known.communities.extend(entry.communities);
            known.statements.extend(entry.statements);
        }
        None => {
            directory.insert(entry.name.clone(), entry);
        }
    }
}

fn verify<T: SignedObject>(
    bytes: &[u8],
    key: &VerifyingKey,
    field: &'static str,
    number: usize,
) -> Result<Signed<T>, BundleError> {
    let odd = |reason| BundleError::Inconsistent { field, number, reason };
    let object = Unverified::<T>::parse(bytes).map_err(|_malformed| odd("is malformed"))?;
    object
        .verify(key)
        .map_err(|_refused| odd("has a signature that does not check"))
}

type Lists = (Option<Signed<Revocations>>, Option<Signed<Head>>);

/// Revocations and head, which pins them.
fn lists(content: &Content, authority: &Signed<Authority>) -> Result<Lists, BundleError> {
    let odd = |field, reason| BundleError::Inconsistent {
        field,
        number: 1,
        reason,
    };
    let (key, of) = (&authority.statement_key, (authority.era, authority.enclave));
    let revocations: Option<Signed<Revocations>> = content
        .revocations
        .as_deref()
        .map(|bytes| verify(bytes, key, "revocations", 1))
        .transpose()?;
    let head: Option<Signed<Head>> = content
        .head
        .as_deref()
        .map(|bytes| verify(bytes, key, "head", 1))
        .transpose()?;
    if revocations.as_ref().is_some_and(|list| (list.era, list.enclave) != of) {
        return Err(odd("revocations", "is of another enclave or era"));
    }
    if let Some(head) = &head {
        let pinned = revocations.as_ref().map(|list| (list.revision, head_hash(list)));
        if (head.era, head.enclave) != of || pinned != Some((head.revision, head.hash)) {
            return Err(odd(
                "head",
                "is of another enclave or era, or pins other revocations than the bundle's",
            ));
        }
    }
    Ok((revocations, head))
}
