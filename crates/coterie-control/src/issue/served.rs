//! What a server tells of an enclave, beside bundles: its pulse, and the view of each community.

use core::net::SocketAddr;

use coterie_crypto::{hash, sign::SigningKey};
use coterie_model::{
    CommunityTag, DirectoryEntry, Head, Manifest, Name, Prefix, Signed, Statement, UnixTime, signed::head_hash,
};

use super::{Enclave, IssueError, Part, SERVER_LIFE};
use crate::{
    bundle::{Freshness, MAX_ENTRIES, MAX_SERVERS, certificate},
    enrol::DoorAddress,
    file::Member,
};

impl Enclave {
    /// From now on members need a pulse: a server tells heads. An enclave that was issued offline goes on so until each of its
    /// members has a new bundle.
    ///
    /// # Errors
    /// [`IssueError`] when the authority has ended.
    pub fn serve(&mut self, now: UnixTime) -> Result<(), IssueError> {
        let now = self.advance(now)?;
        self.freshness = Freshness::Heads;
        self.touch(Part::Enclave);
        if self.revocations.is_none() {
            // A head pins a list, be it empty.
            self.set_revocations(Vec::new(), now)?;
        }
        Ok(())
    }

    /// Where members find the server (TCP), in the order in which they are to try; the first [`MAX_SERVERS`] count. Where that
    /// changes something, every member is told to ask for a bundle.
    pub fn set_servers(&mut self, mut servers: Vec<SocketAddr>) {
        servers.truncate(MAX_SERVERS);
        if servers != self.servers {
            self.servers = servers;
            self.touch(Part::Enclave);
            self.touch(Part::File);
        }
    }

    /// Where members find the server.
    #[must_use]
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Where machines with a join token may call, with the door's key: each member of a template that says `door = true`, which
    /// is enrolled, not isolated, and has an endpoint.
    #[must_use]
    pub fn doors(&self) -> Vec<(&Name, DoorAddress)> {
        let door = |(name, member): (&'_ Name, &Member)| {
            self.file.templates.get(&member.template).filter(|kind| kind.door)?;
            let enrolment = self.enrolment(name).ok().filter(|e| !e.isolated)?;
            Some(DoorAddress {
                endpoint: *member.endpoints.first()?,
                static_key: *enrolment.request.static_key(),
            })
        };
        let all = self.roster.iter();
        all.filter_map(|each| Some((each.0, door(each)?))).collect()
    }

    /// A certificate (DER) for the server of this enclave, for `key`: by it, its members know the server
    /// ([`crate::bundle::server_name`]). Valid for [`SERVER_LIFE`], at most as long as the authority.
    ///
    /// # Errors
    /// [`IssueError::AuthorityEnded`], or [`IssueError::Certificate`] when the X.509 library refuses.
    pub fn server_certificate(&self, key: &SigningKey, now: UnixTime) -> Result<Vec<u8>, IssueError> {
        if now >= self.authority.not_after {
            return Err(IssueError::AuthorityEnded(self.authority.not_after));
        }
        let key = &key.verifying_key();
        let subject = certificate::OfEnclave {
            enclave: &self.authority.name,
            id: self.authority.enclave,
            key,
            issued: now,
            not_after: now.plus(SERVER_LIFE).min(self.authority.not_after),
        };
        // One key at one time: no other certificate has this number.
        let digest = hash::sha256(&[b"coterie/1 server certificate", &key.0, &now.0.to_be_bytes()]);
        let mut serial = [0; 16];
        serial.copy_from_slice(&digest[..16]);
        let made = certificate::server(&self.root_key, &self.root_certificate, &subject, serial);
        made.map_err(IssueError::from)
    }

    /// The pulse at `now`; `None` in an enclave without a server.
    #[must_use]
    pub fn head(&self, now: UnixTime) -> Option<Signed<Head>> {
        if self.freshness == Freshness::Offline {
            return None;
        }
        let list = self.revocations.as_ref()?;
        let head = Head {
            era: self.authority.era,
            enclave: self.authority.enclave,
            revision: list.revision,
            time: now.max(self.latest),
            hash: head_hash(list),
        };
        Some(Signed::sign(head, &self.statement_key))
    }

    /// The tag of a community.
    #[must_use]
    pub fn tag(&self, community: &Name) -> Option<CommunityTag> {
        self.communities.get(community).map(|record| record.tag)
    }

    /// The epochs of a community that have not retired at `now`.
    #[must_use]
    pub fn live_manifests(&self, community: &Name, now: UnixTime) -> Vec<&Signed<Manifest>> {
        self.manifests(community).filter(|m| m.retires > now).collect()
    }

    /// Whether a community has so many members that they are not told of each other, but find each other by asking.
    #[must_use]
    pub fn is_large(&self, community: &Name) -> bool {
        usize::try_from(self.roster.holders(community)).is_ok_and(|n| n > MAX_ENTRIES)
    }

    /// What is told of all members of a community.
    #[must_use]
    pub fn view(&self, community: &Name, now: UnixTime) -> Vec<DirectoryEntry> {
        self.roster
            .iter()
            .filter_map(|(name, _)| self.entry(name, community, now))
            .collect()
    }

    /// What members of a community are told of one of them; `None` when it is in it no more, or not enrolled yet.
    #[must_use]
    pub fn entry(&self, name: &Name, community: &Name, now: UnixTime) -> Option<DirectoryEntry> {
        let member = self.roster.get(name).filter(|m| m.communities.contains(community))?;
        let tag = self.tag(community)?;
        let enrolment = self.enrolment(name).ok()?;
        let statement = enrolment.statements.get(&tag).filter(|s| s.not_after > now);
        Some(entry_of((name, member), tag, statement))
    }

    /// Members whose statements have less than half a lease to run: they are to ask for a new bundle. Whoever is isolated is
    /// not.
    #[must_use]
    pub fn due_for_renewal(&self, now: UnixTime) -> Vec<Name> {
        let half = now.plus(self.file.enclave.lease / 2);
        self.members
            .iter()
            .filter(|(_, record)| {
                let enrolment = record.enrolment.as_ref().filter(|e| !e.isolated);
                enrolment.is_some_and(|e| e.statements.values().any(|s| s.not_after < half))
            })
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// What is told of a member in one community.
pub(super) fn entry_of(
    (name, member): (&Name, &Member),
    tag: CommunityTag,
    statement: Option<&Signed<Statement>>,
) -> DirectoryEntry {
    DirectoryEntry {
        name: name.clone(),
        communities: vec![tag],
        addresses: member.addresses.iter().filter_map(|ip| Prefix::host(*ip)).collect(),
        endpoints: member.endpoints.clone(),
        statements: statement.cloned().into_iter().collect(),
    }
}
