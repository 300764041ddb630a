//! What a server looks up of members.

use coterie_crypto::{dh::PublicKey, sign::VerifyingKey};
use coterie_model::{MemberId, Name};

use super::Enclave;
use crate::file::Member;

impl Enclave {
    /// The enclave file's text, as it was taken last.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A member, of the file or made by a token.
    #[must_use]
    pub fn seat(&self, name: &Name) -> Option<&Member> {
        self.roster.get(name)
    }

    /// Who has an inside address.
    #[must_use]
    pub fn owner(&self, address: core::net::IpAddr) -> Option<&Name> {
        self.roster.owner(address)
    }

    /// The enrolment of a member; `None` while it has none.
    #[must_use]
    pub fn member_id(&self, name: &Name) -> Option<MemberId> {
        self.enrolment(name).ok().map(|e| e.member)
    }

    /// The static key that a member is enrolled with.
    #[must_use]
    pub fn static_key(&self, name: &Name) -> Option<&PublicKey> {
        self.enrolment(name).ok().map(|e| e.request.static_key())
    }

    /// The key of a member's certificates.
    #[must_use]
    pub fn identity_key(&self, name: &Name) -> Option<&VerifyingKey> {
        self.enrolment(name).ok().map(|e| e.request.identity_key())
    }

    /// What people compare of the keys that a member is enrolled with.
    #[must_use]
    pub fn fingerprint(&self, name: &Name) -> Option<String> {
        self.enrolment(name).ok().map(|e| e.request.fingerprint())
    }

    /// Whether a member is refused until it is released.
    #[must_use]
    pub fn is_isolated(&self, name: &Name) -> bool {
        self.enrolment(name).is_ok_and(|e| e.isolated)
    }
}
