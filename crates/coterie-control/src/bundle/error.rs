//! What is wrong with a bundle, where, and what to do.

use coterie_model::{Malformed, Name, UnixTime};

use super::{armour::ArmourError, certificate::CertificateError, date, format::VERSION};

const REMEDY: &str = "issue a new one with `coterie bundle issue` in the enclave's directory";
const COPY: &str = "copy it again from where it was issued, or issue a new one with `coterie bundle issue`";

/// Why a bundle is not accepted. Nothing of a bundle that is not accepted is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The file around the bundle: empty, no bundle, truncated, malformed base64, edited header.
    #[error("{0}; {COPY}")]
    Armour(ArmourError),
    /// A version that this program does not know.
    #[error(
        "field version, byte 0: the bundle has version {found}, this program reads version {VERSION}; issue it with the \
         `coterie` of the release that is installed here, or upgrade this machine"
    )]
    Version {
        /// The version that stands there.
        found: u8,
    },
    /// Bytes are missing, or too many.
    #[error("field length, byte 1: the bundle says that it has {stated} bytes, here are {actual}: {}; {COPY}",
        if .actual < .stated { "it was truncated" } else { "something was appended" })]
    Length {
        /// What it says.
        stated: usize,
        /// What is there.
        actual: usize,
    },
    /// A field that cannot be read.
    #[error("field {}, byte {}: malformed; {COPY}", .0.what, .0.offset)]
    Malformed(Malformed),
    /// Another root than the one that this machine trusts.
    #[error(
        "field root key, byte 5: foreign: the bundle is of enclave `{enclave}` with root {}, this machine trusts root {}; \
         take the bundle that the enclave of this machine issued, or enrol anew to move the machine",
        short(.found), short(.trusted)
    )]
    Foreign {
        /// The enclave's name, as the bundle has it.
        enclave: Name,
        /// [`super::root_hash`] of the bundle's root.
        found: [u8; 32],
        /// The one that is trusted.
        trusted: [u8; 32],
    },
    /// A signature that does not check.
    #[error("field {field}, byte {offset}: its signature does not check: the bundle was edited; {COPY}")]
    Edited {
        /// What is signed.
        field: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// Issued to other keys than those of this machine.
    #[error(
        "field {field}, byte {offset}: wrong machine: the bundle is for member `{member}` with other keys than those of this machine; \
         give the bundle to the machine that made the request, or make a new request here and {REMEDY}"
    )]
    WrongMachine {
        /// What does not match.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// The bundle's member.
        member: Name,
    },
    /// An older bundle than one that was accepted.
    #[error(
        "field serial, byte {offset}: rolled back: this is bundle {serial}, this machine has accepted bundle {floor} already; use the \
         newest bundle, or {REMEDY}"
    )]
    RolledBack {
        /// Where it stands.
        offset: usize,
        /// The bundle's.
        serial: u64,
        /// The highest one accepted.
        floor: u64,
    },
    /// The lease has ended.
    #[error("field {field}, byte {offset}: expired: it ended at {}, now it is {}; {REMEDY}", date::text(*.ended), date::text(*.now))]
    Expired {
        /// What ended.
        field: &'static str,
        /// Where it stands.
        offset: usize,
        /// When.
        ended: UnixTime,
        /// Protocol time.
        now: UnixTime,
    },
    /// A certificate inside.
    #[error("field {field}, byte {offset}: {error}; {REMEDY}")]
    Certificate {
        /// Which one.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// What is wrong.
        error: CertificateError,
    },
    /// Parts that contradict each other although they are signed.
    #[error("field {field}, number {number}: {reason}; {REMEDY}")]
    Inconsistent {
        /// The list.
        field: &'static str,
        /// The element, from 1.
        number: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

impl From<ArmourError> for BundleError {
    fn from(error: ArmourError) -> Self {
        Self::Armour(error)
    }
}

impl From<Malformed> for BundleError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

/// The first 8 bytes, for people.
fn short(hash: &[u8; 32]) -> String {
    hash[..8].iter().map(|b| format!("{b:02x}")).collect()
}
