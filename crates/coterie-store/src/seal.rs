//! Secrets at rest: root key -> tenant key -> row key.
//!
//! A tenant key is random and sealed under a key derived from the root key. Each sealed value has a key of its own, derived
//! from the tenant key with the value's table and row, and names its whole place as associated data: a value that is moved
//! to another row, column, table or tenant does not open. Sealed with AES-256-GCM-SIV, so that a generator that repeats
//! itself reveals no more than that the same value was written twice. Layout: nonce (12), text, tag (16).

use coterie_crypto::aead::{Key, Suite, TAG_LEN};
use coterie_crypto::hash::{MacKey, expand};
use coterie_crypto::{Entropy, Refused, Secret, same_bytes};
use zeroize::Zeroizing;

use crate::id::{ServerId, TenantId};

const NONCE_LEN: usize = 12;
const LABEL: &[u8] = b"coterie/store/1";

/// What opens everything in one database.
pub(crate) struct RootKey(Secret<32>);

/// What opens the values of one tenant.
pub(crate) struct TenantKey {
    tenant: TenantId,
    key: Secret<32>,
}

/// Where a sealed value stands, the tenant apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    /// The parts of the row's key.
    pub(crate) row: &'a [&'a [u8]],
}

impl RootKey {
    pub(crate) fn new(key: Secret<32>) -> Self {
        Self(key)
    }

    /// A value by which the right root key is told from a wrong one.
    pub(crate) fn seal_check(&self, server: ServerId, entropy: &mut (dyn Entropy + Send)) -> Vec<u8> {
        seal(&self.key(b"check"), &server.0, b"", entropy)
    }

    pub(crate) fn opens_check(&self, server: ServerId, sealed: &[u8]) -> bool {
        open(&self.key(b"check"), &server.0, sealed).is_ok_and(|text| text.is_empty())
    }

    pub(crate) fn seal_tenant_key(&self, key: &TenantKey, entropy: &mut (dyn Entropy + Send)) -> Vec<u8> {
        seal(&self.key(b"tenant key"), &key.tenant.0, key.key.expose(), entropy)
    }

    pub(crate) fn open_tenant_key(&self, tenant: TenantId, sealed: &[u8]) -> Result<TenantKey, Refused> {
        let text = open(&self.key(b"tenant key"), &tenant.0, sealed)?;
        let key = Secret::from_slice(&text).ok_or(Refused)?;
        Ok(TenantKey { tenant, key })
    }

    /// Vouches for the end of the audit log, so that who can edit the database cannot forge another one.
    pub(crate) fn audit_mac(&self, seq: u64, hash: &[u8; 32]) -> [u8; 32] {
        let mut text = [0; 40];
        text[..8].copy_from_slice(&seq.to_be_bytes());
        text[8..].copy_from_slice(hash);
        MacKey::new(self.key(b"audit").expose()).tag(&text)
    }

    pub(crate) fn vouches(&self, seq: u64, hash: &[u8; 32], mac: &[u8]) -> bool {
        same_bytes(&self.audit_mac(seq, hash), mac)
    }

    fn key(&self, purpose: &[u8]) -> Secret<32> {
        expand(&self.0, &[LABEL, b" root ", purpose])
    }
}

impl core::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("RootKey")
    }
}

impl core::fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "TenantKey({})", self.tenant)
    }
}

impl TenantKey {
    pub(crate) fn draw(tenant: TenantId, entropy: &mut (dyn Entropy + Send)) -> Self {
        let key = Secret::draw(entropy);
        Self { tenant, key }
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.tenant
    }

    pub(crate) fn seal(&self, place: &Place<'_>, text: &[u8], entropy: &mut (dyn Entropy + Send)) -> Vec<u8> {
        let (key, aad) = self.at(place);
        seal(&key, &aad, text, entropy)
    }

    pub(crate) fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
        let (key, aad) = self.at(place);
        open(&key, &aad, sealed)
    }

    /// Key and associated data of a place.
    fn at(&self, place: &Place<'_>) -> (Secret<32>, Vec<u8>) {
        let mut row = counted(&[place.table.as_bytes()]);
        row.extend(counted(place.row));
        let mut aad = counted(&[&self.tenant.0, place.column.as_bytes()]);
        aad.extend_from_slice(&row);
        (expand(&self.key, &[LABEL, b" row ", &row]), aad)
    }
}

/// Parts with their lengths, so that no two lists have the same bytes.
pub(crate) fn counted(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn seal(key: &Secret<32>, aad: &[u8], text: &[u8], entropy: &mut (dyn Entropy + Send)) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    entropy.fill(&mut nonce);
    // Room for everything at once: a buffer that grows leaves copies of secrets behind.
    let mut out = Vec::with_capacity(NONCE_LEN + text.len() + TAG_LEN);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(text);
    let tag = Key::new(Suite::Aes256GcmSiv, key).seal(nonce, aad, &mut out[NONCE_LEN..]);
    out.extend_from_slice(&tag);
    out
}

fn open(key: &Secret<32>, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refused> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Refused)?;
    let mut text = Zeroizing::new(rest.to_vec());
    let len = Key::new(Suite::Aes256GcmSiv, key).open(*nonce, aad, &mut text)?.len();
    text.truncate(len);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use coterie_crypto::SeededEntropy;

    use super::*;

    #[test]
    fn a_value_opens_in_its_own_place_alone() {
        let mut entropy = SeededEntropy::from_number(1);
        let key = TenantKey::draw(TenantId([1; 16]), &mut entropy);
        let row: &[&[u8]] = &[b"ab", b"c"];
        let place = Place {
            table: "records",
            column: "value",
            row,
        };
        let sealed = key.seal(&place, b"text", &mut entropy);
        assert_eq!(key.open(&place, &sealed).unwrap()[..], b"text"[..]);
        let elsewhere: [Place<'_>; 3] = [
            Place {
                row: &[b"a", b"bc"],
                ..place
            },
            Place { column: "key", ..place },
            Place {
                table: "tokens",
                ..place
            },
        ];
        for place in elsewhere {
            assert!(key.open(&place, &sealed).is_err(), "{place:?}");
        }
        let other_tenant = TenantKey {
            tenant: TenantId([2; 16]),
            key: key.key.duplicate(),
        };
        assert!(other_tenant.open(&place, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(key.open(&place, &bad).is_err(), "byte {at}");
        }
        assert!(key.open(&place, &sealed[..11]).is_err());
    }

    #[test]
    fn another_root_key_opens_nothing() {
        let mut entropy = SeededEntropy::from_number(1);
        let (one, other) = (RootKey::new(Secret::new([1; 32])), RootKey::new(Secret::new([2; 32])));
        let (server, tenant) = (ServerId([3; 16]), TenantId([4; 16]));
        let key = TenantKey::draw(tenant, &mut entropy);
        let (check, sealed) = (
            one.seal_check(server, &mut entropy),
            one.seal_tenant_key(&key, &mut entropy),
        );
        assert!(one.opens_check(server, &check) && !other.opens_check(server, &check));
        assert!(!one.opens_check(ServerId([5; 16]), &check));
        assert_eq!(one.open_tenant_key(tenant, &sealed).unwrap().key, key.key);
        assert!(other.open_tenant_key(tenant, &sealed).is_err());
        assert!(one.open_tenant_key(TenantId([5; 16]), &sealed).is_err());
        assert!(!other.vouches(1, &[0; 32], &one.audit_mac(1, &[0; 32])));
    }
}
