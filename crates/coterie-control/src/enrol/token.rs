//! The join token.

use core::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coterie_crypto::{
    Entropy, Secret,
    dh::PublicKey,
    hash::{self, sha256},
    same_bytes,
};
use coterie_model::{CommunityTag, EnclaveId, EpochKey, Malformed, Reader, UnixTime, Writer};
use zeroize::Zeroizing;

use crate::bundle::MAX_SERVERS;

/// What every token begins with.
const PREFIX: &str = "coterie-join-1.";
const VERSION: u8 = 1;
/// Most doors of a token.
pub const MAX_DOORS: usize = 8;
const CHECKSUM: usize = 4;
/// Longest text: [`MAX_DOORS`] doors and [`MAX_SERVERS`] servers with IPv6 addresses.
const MAX_TEXT: usize = 1024;

/// A join token: who holds it may ask to become a member.
#[derive(Debug)]
pub struct Token {
    /// Names it; not secret.
    pub id: [u8; 16],
    secret: Secret<32>,
    /// The enclave, by which its server is called ([`crate::bundle::server_name`]).
    pub enclave: EnclaveId,
    /// What the machine pins of the enclave ([`crate::bundle::root_hash`]).
    pub root_hash: [u8; 32],
    /// The server's key that applications are sealed to.
    pub server: PublicKey,
    /// When it ends.
    pub not_after: UnixTime,
    /// Nodes that let the machine in, where it has no server to ask itself.
    pub doors: Vec<DoorAddress>,
    /// Where the machine finds the server itself (TCP). There is a door or a server at least.
    pub servers: Vec<SocketAddr>,
}

/// A node that lets visitors in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorAddress {
    /// Where it is.
    pub endpoint: SocketAddr,
    /// Its static key.
    pub static_key: PublicKey,
}

impl Token {
    /// Draws a token of an enclave, named by identifier and root hash.
    pub fn draw(
        enclave: (EnclaveId, [u8; 32]),
        server: PublicKey,
        not_after: UnixTime,
        doors: Vec<DoorAddress>,
        servers: Vec<SocketAddr>,
        entropy: &mut dyn Entropy,
    ) -> Self {
        let mut id = [0; 16];
        entropy.fill(&mut id);
        Self::from_parts(id, Secret::draw(entropy), enclave, server, not_after, doors, servers)
    }

    /// A token that is known already: the server keeps identifier and secret, the rest it knows.
    #[must_use]
    pub fn from_parts(
        id: [u8; 16],
        secret: Secret<32>,
        (enclave, root_hash): (EnclaveId, [u8; 32]),
        server: PublicKey,
        not_after: UnixTime,
        doors: Vec<DoorAddress>,
        servers: Vec<SocketAddr>,
    ) -> Self {
        Self {
            id,
            secret,
            enclave,
            root_hash,
            server,
            not_after,
            doors,
            servers,
        }
    }

    /// The secret, for who stores tokens.
    #[must_use]
    pub fn secret(&self) -> &Secret<32> {
        &self.secret
    }

    /// The knock key for the door of `static_key`: all that this door is told of the token. With it the machine's handshake
    /// can be answered, and nothing of what it says to the server can be read.
    #[must_use]
    pub fn knock_key(&self, static_key: &PublicKey) -> EpochKey {
        EpochKey {
            tag: CommunityTag(self.id),
            epoch: 1,
            key: hash::derive(b"", self.secret.expose(), &[b"coterie/1 knock", &self.id, static_key]),
        }
    }

    /// The token as people and machines pass it on. Secret.
    ///
    /// # Panics
    /// When there are more than [`MAX_DOORS`] doors or [`MAX_SERVERS`] servers: a caller's error.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut front = Writer::new();
        front.u8(VERSION).bytes(&self.id);
        let mut back = Writer::new();
        back.bytes(&self.enclave.0)
            .bytes(&self.root_hash)
            .bytes(&self.server)
            .u64(self.not_after.0);
        let count = |n: usize, max: usize| {
            let few = u8::try_from(n).ok().filter(|_| n <= max);
            few.expect("the caller bounds doors and servers")
        };
        back.u8(count(self.doors.len(), MAX_DOORS));
        for door in &self.doors {
            back.endpoint(&door.endpoint).bytes(&door.static_key);
        }
        back.u8(count(self.servers.len(), MAX_SERVERS));
        for server in &self.servers {
            back.endpoint(server);
        }
        // Room for everything at once: a buffer that grows leaves copies of secrets behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_TEXT));
        body.extend_from_slice(&front.into_bytes());
        body.extend_from_slice(self.secret.expose());
        body.extend_from_slice(&back.into_bytes());
        let sum = checksum(&body);
        body.extend_from_slice(&sum);
        let mut text = Zeroizing::new(String::with_capacity(2 * MAX_TEXT));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*body, &mut text);
        text
    }

    /// Reads a token; white space around it does not count.
    ///
    /// # Errors
    /// [`TokenError`]; none of them shows anything of the token.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let base64 = text.strip_prefix(PREFIX).ok_or(TokenError::NoToken)?;
        if text.len() > MAX_TEXT {
            return Err(TokenError::Damaged);
        }
        let body = URL_SAFE_NO_PAD
            .decode(base64)
            .map(Zeroizing::new)
            .map_err(|_encoding| TokenError::Damaged)?;
        let (body, sum) = body.split_last_chunk::<CHECKSUM>().ok_or(TokenError::Damaged)?;
        if !same_bytes(&checksum(body), sum) {
            return Err(TokenError::Damaged);
        }
        let mut r = Reader::new(body);
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(TokenError::Version(version));
        }
        let id = r.array("identifier")?;
        let secret = r
            .take(32, "secret")
            .map(|b| Secret::from_slice(b).expect("32 bytes were taken"))?;
        let enclave = (EnclaveId(r.array("enclave")?), r.array("root hash")?);
        let server = r.array("server key")?;
        let not_after = UnixTime(r.u64("not-after")?);
        let bad = r.malformed("count of doors");
        let count = usize::from(r.u8("count of doors")?);
        if count > MAX_DOORS {
            return Err(bad.into());
        }
        let doors = (0..count)
            .map(|_| {
                Ok(DoorAddress {
                    endpoint: r.endpoint("door")?,
                    static_key: r.array("static key of a door")?,
                })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        let bad = r.malformed("count of servers");
        let count = usize::from(r.u8("count of servers")?);
        if count > MAX_SERVERS || doors.len() + count == 0 {
            return Err(bad.into());
        }
        let servers = (0..count)
            .map(|_| r.endpoint("server"))
            .collect::<Result<_, Malformed>>()?;
        r.finish()?;
        Ok(Self::from_parts(id, secret, enclave, server, not_after, doors, servers))
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let digest = sha256(&[b"coterie/1 token", body]);
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&digest[..CHECKSUM]);
    sum
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing is there.
    #[error("the token is empty; paste the whole of what the server gave out")]
    Empty,
    /// Something else.
    #[error("this is no join token: one begins with `coterie-join-1.`; paste the whole of what the server gave out")]
    NoToken,
    /// Cut, or changed.
    #[error("the token is damaged: a part is missing or was changed; paste the whole of it again")]
    Damaged,
    /// Of another release.
    #[error("the token has version {0}, this program reads version {VERSION}; use programs of one release")]
    Version(u8),
    /// Made by something that is no server of ours.
    #[error("{0} of the token; have a new one made")]
    Malformed(Malformed),
}

impl From<Malformed> for TokenError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

#[cfg(test)]
mod tests {
    use coterie_crypto::SeededEntropy;

    use super::*;

    fn token(doors: usize, servers: usize) -> Token {
        let door = |n: usize| DoorAddress {
            endpoint: format!("[2001:db8::{n}]:4747").parse().unwrap(),
            static_key: [u8::try_from(n).unwrap(); 32],
        };
        let doors = (1..=doors).map(door).collect();
        let servers = (0..servers).map(|n| format!("[fd77::{n}]:4750").parse().unwrap());
        let mut entropy = SeededEntropy::from_number(1);
        let enclave = (EnclaveId([6; 16]), [7; 32]);
        Token::draw(enclave, [8; 32], UnixTime(9), doors, servers.collect(), &mut entropy)
    }

    #[test]
    fn comes_back_and_every_change_is_noticed() {
        for (doors, servers) in [(1, 0), (0, 1), (MAX_DOORS, MAX_SERVERS)] {
            let token = token(doors, servers);
            let text = token.to_text();
            assert!(text.len() <= MAX_TEXT);
            let back = Token::parse(&format!(" {}\n", *text)).unwrap();
            assert_eq!(
                (back.id, back.enclave, back.root_hash, back.server),
                (token.id, token.enclave, token.root_hash, token.server)
            );
            assert_eq!((back.not_after, &back.doors), (token.not_after, &token.doors));
            assert_eq!(back.servers, token.servers);
            assert_eq!(back.secret.expose(), token.secret.expose());
            for at in 0..text.len() {
                let mut changed = text.as_bytes().to_vec();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                assert!(Token::parse(&changed).is_err(), "byte {at}");
                assert!(Token::parse(&text[..at]).is_err(), "{at} bytes");
            }
        }
    }

    #[test]
    fn each_door_has_a_key_of_its_own_and_nothing_is_printed() {
        let nowhere = token(0, 0).to_text();
        assert!(matches!(Token::parse(&nowhere), Err(TokenError::Malformed(_))));
        let token = token(2, 0);
        let keys = token.doors.iter().map(|d| token.knock_key(&d.static_key));
        let keys: Vec<_> = keys.map(|k| *k.key.expose()).collect();
        assert_ne!(keys[0], keys[1]);
        assert!(!keys.contains(token.secret.expose()));
        assert!(!format!("{token:?}").contains(&format!("{:?}", token.secret.expose())));
        for bad in ["", "hello", "coterie-join-1.", "coterie-join-1.!!!!"] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }
}
