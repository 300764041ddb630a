//! An enclave file that has passed every check.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use coterie_model::Name;
use ipnet::IpNet;
use serde::Serialize;

use super::{
    diagnostic::Diagnostics,
    matching::Match,
    reach::{Explanation, ReachError, Topology, explain},
    value::{Selector, Target, serialize_duration},
};

/// An enclave, as its file describes it; made by [`super::parse`] alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EnclaveFile {
    /// The enclave itself.
    pub enclave: Enclave,
    /// Its communities, at least one.
    #[serde(rename = "community")]
    pub communities: BTreeMap<Name, Community>,
    /// Its templates.
    #[serde(rename = "template")]
    pub templates: BTreeMap<Name, Template>,
    /// The members that the file names.
    #[serde(rename = "member")]
    pub members: BTreeMap<Name, Member>,
    /// The tests that the policy has passed.
    pub tests: Vec<PolicyTest>,
    /// What may not do what the author thinks; no errors.
    #[serde(skip)]
    pub warnings: Diagnostics,
}

impl EnclaveFile {
    /// Who holds which community and excludes whom.
    #[must_use]
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::new();
        for (name, community) in &self.communities {
            topology.add_community(name.clone(), community.priority);
        }
        for (name, member) in &self.members {
            topology.add_member(
                name.clone(),
                member.communities.iter().cloned(),
                member.exclude.iter().cloned(),
            );
        }
        topology
    }

    /// Why `from` reaches `to`, or does not.
    ///
    /// # Errors
    /// [`ReachError`] where one of them is no member of the file, or both are the same.
    pub fn explain(&self, from: &Name, to: &Name) -> Result<Explanation, ReachError> {
        explain(&self.topology(), from, to)
    }
}

/// The enclave itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Enclave {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Networks that inside addresses come from, in the order of the file; none overlaps another.
    pub pools: Vec<IpNet>,
    /// Membership lease.
    #[serde(serialize_with = "serialize_duration")]
    pub lease: Duration,
    /// Largest inside packet in bytes; `None` leaves it to each node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// UDP port of coteried, for endpoints that named none.
    pub port: u16,
}

/// A community of interest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Community {
    /// Lower comes first.
    pub priority: u16,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How often its key is replaced; not less than the membership lease.
    #[serde(serialize_with = "serialize_duration")]
    pub epoch: Duration,
}

/// What members of one kind have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Template {
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Communities that each of its members holds.
    pub communities: BTreeSet<Name>,
    /// Members that its members do not want to hear them.
    pub exclude: BTreeSet<Name>,
    /// Whether nothing leaves in the clear on the outside interface.
    pub lockdown: bool,
    /// What admits a member again after reboot, restore or fork.
    #[serde(rename = "return")]
    pub returning: Return,
    /// Whether running members may be snapshot and forked.
    pub forkable: bool,
    /// Cipher suites that its members may use, at least one.
    pub suites: BTreeSet<Suite>,
    /// Whether members may change their outside address while sessions live.
    pub roaming: bool,
    /// Whether members let machines with a join token in.
    pub door: bool,
    /// Which starting machines get it; `None` is none of them.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Match>,
}

/// What admits a member again after reboot, restore or fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Return {
    /// The hypervisor's event brings a new token.
    Source,
    /// 32 bytes on disk, replaced at each use.
    Ticket,
    /// The machine's TPM.
    Tpm,
    /// Nothing: it has to be provisioned again.
    None,
}

/// A cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Suite {
    /// AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
    /// AES-256-GCM-SIV, which bears a repeated nonce.
    #[serde(rename = "aes-256-gcm-siv")]
    Aes256GcmSiv,
}

/// One member that the file names, with all that its template gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Member {
    /// The template that it is made from.
    pub template: Name,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Inside addresses, at least one; those of the file in its order, or else one of each address family.
    pub addresses: Vec<IpAddr>,
    /// Outside addresses, each with a port.
    pub endpoints: Vec<SocketAddr>,
    /// Communities that it holds: its template's and its own, 1 to 64.
    pub communities: BTreeSet<Name>,
    /// Members that it does not want to hear it: its template's and its own, without itself.
    pub exclude: BTreeSet<Name>,
}

impl Member {
    /// A member that no file names: what a template gives to a machine of this name.
    pub(crate) fn of_template(
        name: &Name,
        (template, kind): (&Name, &Template),
        addresses: Vec<IpAddr>,
        endpoints: Vec<SocketAddr>,
    ) -> Self {
        Self {
            template: template.clone(),
            description: None,
            addresses,
            endpoints,
            communities: kind.communities.clone(),
            exclude: kind.exclude.iter().filter(|other| *other != name).cloned().collect(),
        }
    }
}

/// A promise of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PolicyTest {
    /// What is promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The senders.
    pub from: Selector,
    /// The receivers and the service.
    pub to: Target,
    /// Whether every sender must reach every receiver, or none any.
    pub reach: bool,
    /// The community that must be in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<Name>,
}
