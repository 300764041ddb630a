//! Bundles: what a machine is given to become a member, the request for one, and the machine's own keys (docs/BUNDLE.md).
//!
//! 1. [`Keys::generate`] on the machine; they stay there. [`Request::new`] makes what is carried to the issuer.
//! 2. [`crate::issue::Enclave`] answers with a bundle file.
//! 3. [`Bundle::parse`] and [`Bundle::open`] on the machine give [`Opened`], which a node runs on.
//!
//! Pure: bytes and time in, values out. Decoders are bounded and never panic.

mod armour;
pub(crate) mod certificate;
pub(crate) mod date;
pub(crate) mod delivery;
mod error;
pub(crate) mod format;
mod keys;
mod open;
mod request;
mod succession;
pub(crate) mod view;

pub use armour::{ArmourError, MAX_BYTES};
pub use certificate::{CertificateError, member_uri, pkcs8, server_name, subject_of, to_pem};
pub use error::BundleError;
pub use format::{Freshness, MAX_SERVERS, TemplateSettings};
pub use keys::{Keys, KeysError};
pub use open::{Bundle, Opened};
pub use request::{Request, RequestError};
pub use succession::{MAX_SUCCESSIONS, Succession};
pub use view::MAX_ENTRIES;

pub(crate) use armour::{Headers, decode as decode_armour, encode as encode_armour};
pub(crate) use open::headers;

use coterie_crypto::{hash, sign::VerifyingKey};

/// The parts of a bundle, each with its decoder: form alone, nothing here checks a signature or opens a seal unless it says
/// so. [`Bundle`] is how a bundle is read; these are for who examines the parts one by one.
pub mod parts {
    pub use super::{
        certificate::{Certificate, check as check_certificate},
        delivery::{
            Delivery, Fault as DeliveryFault, Label, Labels, WrappedKey, decode as decode_delivery,
            decode_text as decode_key_encryption_key, encode as encode_delivery,
            encode_text as encode_key_encryption_key,
        },
        format::{Content, Front, decode_whole as decode_bundle, encode_body},
        view::{SealedView, decode as decode_view},
    };
}

/// The label in first and last line of a bundle file.
pub(crate) const LABEL: &str = "COTERIE BUNDLE";

/// What a machine pins of an enclave: `SHA-256("coterie/1 root" | root key)`.
#[must_use]
pub fn root_hash(root: &VerifyingKey) -> [u8; 32] {
    hash::sha256(&[b"coterie/1 root", &root.0])
}
