//! Cookies (WIRE section 3.5): under load, a gateway or jumpbox makes an initiator prove that it receives at its source
//! address before any Diffie-Hellman is spent on it. Bound to address and port.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coterie_crypto::{
    Entropy, Refused, Secret,
    aead::{Key, Suite},
    dh::PublicKey,
    hash::{self, MacKey},
    same_bytes,
};
use coterie_model::{EpochKey, Instant};

use crate::{
    schedule,
    wire::datagram::{COOKIE, MAC_LEN},
};

/// How long a cookie's secret makes cookies; the one before is still accepted.
const SECRET_LIFE: Duration = Duration::from_secs(120);

/// The initiations a second above which a node that may ask for cookies does.
const BUSY_ABOVE: u32 = 1000;

/// The responder's half.
pub struct Jar {
    may_ask: bool,
    secrets: [MacKey; 2],
    made: Instant,
    window: (Instant, u32, bool),
}

impl Jar {
    /// A jar that asks for cookies under load only if `may_ask`.
    pub fn new(may_ask: bool, now: Instant, entropy: &mut (impl Entropy + ?Sized)) -> Self {
        let secrets = [fresh(entropy), fresh(entropy)];
        Self {
            may_ask,
            secrets,
            made: now,
            window: (now, 0, false),
        }
    }

    /// Counts an initiation that a community key verified, and tells whether a cookie is wanted now.
    pub fn busy(&mut self, now: Instant) -> bool {
        let (start, count, was_busy) = self.window;
        self.window = if now.since(start) >= Duration::from_secs(1) {
            (now, 1, count > BUSY_ABOVE)
        } else {
            (start, count + 1, was_busy)
        };
        self.may_ask && (self.window.1 > BUSY_ABOVE || self.window.2)
    }

    /// True when `mac2` was made with a cookie for `from`. `covered` is the message before `mac2`.
    pub fn accepts(
        &mut self,
        covered: &[u8],
        mac2: &[u8],
        from: SocketAddr,
        now: Instant,
        entropy: &mut (impl Entropy + ?Sized),
    ) -> bool {
        self.turn(now, entropy);
        let digest = hash::sha256(&[covered]);
        self.secrets
            .iter()
            .any(|s| same_bytes(&MacKey::new(&cookie_of(s, from)).mac(&digest), mac2))
    }

    /// The datagram that hands `from` its cookie.
    pub fn ask(
        &mut self,
        key: &EpochKey,
        own: &PublicKey,
        initiation: (u32, &[u8]),
        from: SocketAddr,
        now: Instant,
        entropy: &mut (impl Entropy + ?Sized),
    ) -> Vec<u8> {
        self.turn(now, entropy);
        let (sender, mac1) = initiation;
        let mut nonce = [0; 12];
        entropy.fill(&mut nonce);
        let mut cookie = cookie_of(&self.secrets[0], from);
        let tag = Key::new(Suite::Aes256GcmSiv, &schedule::cookie_key(key, own)).seal(nonce, mac1, &mut cookie);
        let mut out = vec![COOKIE, 0, 0, 0];
        out.extend_from_slice(&sender.to_be_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&cookie);
        out.extend_from_slice(&tag);
        out
    }

    fn turn(&mut self, now: Instant, entropy: &mut (impl Entropy + ?Sized)) {
        if now.since(self.made) >= SECRET_LIFE {
            self.secrets.swap(0, 1);
            self.secrets[0] = fresh(entropy);
            self.made = now;
        }
    }
}

/// The initiator's half: opens the cookie in `datagram`, asked for by the owner of `responder` about the initiation with `mac1`.
///
/// # Errors
/// [`Refused`] when it was not sealed by a holder of the community's key for that initiation.
pub fn open(
    key: &EpochKey,
    responder: &PublicKey,
    mac1: &[u8; MAC_LEN],
    datagram: &[u8],
) -> Result<[u8; MAC_LEN], Refused> {
    let mut nonce = [0; 12];
    nonce.copy_from_slice(datagram.get(8..20).ok_or(Refused)?);
    let mut sealed = datagram.get(20..).ok_or(Refused)?.to_vec();
    let key = Key::new(Suite::Aes256GcmSiv, &schedule::cookie_key(key, responder));
    let cookie: &[u8] = key.open(nonce, mac1, &mut sealed)?;
    cookie.try_into().map_err(|_length| Refused)
}

fn fresh(entropy: &mut (impl Entropy + ?Sized)) -> MacKey {
    MacKey::new(Secret::<32>::draw(entropy).expose())
}

fn cookie_of(secret: &MacKey, from: SocketAddr) -> [u8; MAC_LEN] {
    let ip = match from.ip() {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    };
    let mut message = [0; 18];
    message[..16].copy_from_slice(&ip.octets());
    message[16..].copy_from_slice(&from.port().to_be_bytes());
    secret.mac(&message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coterie_crypto::SeededEntropy;
    use coterie_model::CommunityTag;

    #[test]
    fn a_cookie_is_for_one_address_port_and_time() {
        let mut e = SeededEntropy::from_number(1);
        let key = EpochKey {
            tag: CommunityTag([1; 16]),
            epoch: 1,
            key: Secret::new([2; 32]),
        };
        let at = |s: u64| Instant::from_nanos(s * 1_000_000_000);
        let mut jar = Jar::new(true, at(0), &mut e);
        let from: SocketAddr = "192.0.2.1:4747".parse().unwrap();
        let datagram = jar.ask(&key, &[3; 32], (7, &[4; 16]), from, at(0), &mut e);
        let cookie = open(&key, &[3; 32], &[4; 16], &datagram).unwrap();
        assert!(open(&key, &[3; 32], &[5; 16], &datagram).is_err(), "another initiation");
        let mac2 = MacKey::new(&cookie).mac(&hash::sha256(&[b"message"]));
        assert!(jar.accepts(b"message", &mac2, from, at(1), &mut e));
        assert!(!jar.accepts(b"message", &mac2, "192.0.2.1:4748".parse().unwrap(), at(1), &mut e));
        assert!(
            jar.accepts(b"message", &mac2, from, at(130), &mut e),
            "the secret before"
        );
        assert!(!jar.accepts(b"message", &mac2, from, at(260), &mut e));
    }

    #[test]
    fn only_who_may_ask_asks_and_only_under_load() {
        let mut e = SeededEntropy::from_number(1);
        let now = Instant::from_nanos(5);
        let mut gateway = Jar::new(true, now, &mut e);
        assert!((0..BUSY_ABOVE).all(|_| !gateway.busy(now)));
        assert!(gateway.busy(now));
        let mut agent = Jar::new(false, now, &mut e);
        assert!((0..2 * BUSY_ABOVE).all(|_| !agent.busy(now)));
    }
}
