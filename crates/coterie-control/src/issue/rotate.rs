//! A new root for an enclave that goes on: what machines pin is replaced while they run.

use coterie_crypto::{Entropy, sign::SigningKey};
use coterie_model::{Authority, Signed, UnixTime, Unverified};

use super::{AUTHORITY_LIFE, Enclave, IssueError, Part};
use crate::bundle::{MAX_SUCCESSIONS, Succession, certificate};

/// A root that went.
#[derive(Debug)]
pub(super) struct Earlier {
    /// Its word on the next one.
    pub(super) succession: Signed<Succession>,
    /// Its certificate.
    pub(super) certificate: Vec<u8>,
    /// The next root's key, certified by it.
    pub(super) cross: Vec<u8>,
    /// When the last certificate ends that it issued to a member.
    pub(super) until: UnixTime,
}

impl Enclave {
    /// Gives the enclave a new root key; the old one is forgotten. Statement key, era and whatever was signed with them stay, so
    /// no session ends and no statement is made anew. Machines that pin the old root accept bundles of the new one by the old
    /// root's word ([`Succession`]), of which the last [`MAX_SUCCESSIONS`] are kept; every member is told to ask for a bundle.
    ///
    /// This is for a root that has been in use for long, or is about to end. A root that was stolen can name a successor too:
    /// then machines must be given the new root's hash by a way that the thief does not have.
    ///
    /// # Errors
    /// [`IssueError::RootsInUse`] when the oldest of the roots that would be forgotten may still be what a member pins.
    pub fn rotate_root(&mut self, now: UnixTime, entropy: &mut dyn Entropy) -> Result<(), IssueError> {
        let now = self.advance(now)?;
        if self.earlier.len() >= MAX_SUCCESSIONS {
            let until = self.earlier.first().map_or(now, |oldest| oldest.until);
            if until > now {
                return Err(IssueError::RootsInUse(until));
            }
            self.earlier.remove(0);
        }
        let next = SigningKey::generate(entropy);
        let mut serial = || {
            let mut serial = [0; 16];
            entropy.fill(&mut serial);
            serial
        };
        let (name, id) = (self.authority.name.clone(), self.authority.enclave);
        let not_after = now.plus(AUTHORITY_LIFE);
        let root_certificate = certificate::root(&next, &name, id, now, not_after, serial())?;
        let subject = certificate::OfEnclave {
            enclave: &name,
            id,
            key: &next.verifying_key(),
            issued: now,
            not_after: self.authority.not_after,
        };
        let cross = certificate::cross(&self.root_key, &self.root_certificate, &subject, serial())?;
        let succession = Succession {
            enclave: id,
            from: self.root_key.verifying_key(),
            to: next.verifying_key(),
            time: now,
        };
        let issued = self.members.values().filter_map(|record| record.enrolment.as_ref());
        let until = issued.map(|e| e.ends).fold(self.lease_end(now), UnixTime::max);
        self.earlier.push(Earlier {
            succession: Signed::sign(succession, &self.root_key),
            certificate: core::mem::replace(&mut self.root_certificate, root_certificate),
            cross,
            until,
        });
        let authority = Authority {
            not_after,
            ..Authority::clone(&self.authority)
        };
        self.authority = Signed::sign(authority, &next);
        self.root_key = next;
        self.touch(Part::Root);
        self.touch(Part::Enclave);
        self.touch(Part::File);
        Ok(())
    }

    /// What is sent behind a leaf of this enclave's root in TLS (DER): whoever trusts any of the roots that were not forgotten
    /// comes to it from the leaf. First the certificates by which each root is certified by the one before, the newest first,
    /// then the roots' own, from the newest on: a machine that knows a root by its hash alone finds it there.
    #[must_use]
    pub fn chain(&self) -> Vec<Vec<u8>> {
        let crosses = self.earlier.iter().rev().map(|earlier| &earlier.cross);
        let roots = self.earlier.iter().rev().map(|earlier| &earlier.certificate);
        crosses.chain([&self.root_certificate]).chain(roots).cloned().collect()
    }

    /// Certificates (DER) of the roots whose members are to be let in by TLS: the enclave's root, and each one before it until
    /// the last certificate that it issued has ended.
    #[must_use]
    pub fn root_certificates(&self) -> Vec<&[u8]> {
        let current = [&self.root_certificate[..]];
        let earlier = self.earlier.iter().rev().filter(|earlier| earlier.until > self.latest);
        current
            .into_iter()
            .chain(earlier.map(|earlier| &earlier.certificate[..]))
            .collect()
    }

    /// What leads from earlier roots to this one, for a bundle.
    pub(super) fn successions(&self) -> Vec<Unverified<Succession>> {
        let signed = self.earlier.iter().map(|earlier| earlier.succession.bytes());
        signed
            .map(|bytes| Unverified::parse(bytes).expect("what was signed or verified parses"))
            .collect()
    }
}
