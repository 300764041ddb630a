//! Where the server is, whom it is recognised by, and whose key is used: from the environment, else from the last login.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use coterie_api::v1::{self, SecretText};
use serde::{Deserialize, Serialize};

use crate::{
    disk::{self, Access},
    exit::{Exit, Stop},
};

/// Longest file that is read.
const MAX_FILE: usize = 1 << 20;
/// Characters of a key after its prefix: 32 bytes in base64url.
const KEY_DIGITS: usize = 43;

/// A server and a key for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// Where it is.
    pub(crate) server: Address,
    /// The principal's key.
    pub(crate) key: SecretText,
    /// Certificates that vouch for it, in PEM.
    pub(crate) ca: String,
}

impl Profile {
    /// What the environment says, and what it leaves open as the last login said. A key is shown to no other server than the
    /// one that it was stored for.
    pub(crate) fn current() -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let stored = Self::stored()?;
        let server = match variable("COTERIE_SERVER") {
            Some(text) => text
                .parse()
                .map_err(|error: String| Stop::because(Exit::Usage, error))?,
            None => match &stored {
                Some(stored) => stored.server.clone(),
                None => return Err(nobody()),
            },
        };
        let stored = stored.filter(|stored| stored.server == server);
        let key = match variable("COTERIE_KEY") {
            Some(text) => parse_key(&text)?,
            None => match &stored {
                Some(stored) => stored.key.clone(),
                None => {
                    let message = format!("no key for {server}; run `coterie login {server}`, or set COTERIE_KEY");
                    return Err(Stop::because(Exit::Usage, message));
                }
            },
        };
        let ca = match (variable("COTERIE_CA"), stored) {
            (Some(path), _) => read_ca(path.as_ref())?,
            (None, Some(stored)) => stored.ca,
            (None, None) => {
                let message = format!(
                    "nothing says how {server} is recognised; run `coterie login {server}`, or set COTERIE_CA to a file with \
                     its CA"
                );
                return Err(Stop::because(Exit::Usage, message));
            }
        };
        Ok(Self { server, key, ca })
    }

    /// Whether there is a server to ask: from the environment or a login.
    pub(crate) fn is_there() -> bool {
        std::env::var_os("COTERIE_SERVER").is_some_and(|value| !value.is_empty())
            || path().is_ok_and(|path| path.exists())
    }

    /// The CA of the last login, if it was at this server. A login that cannot be read is none: another is about to take its place.
    pub(crate) fn ca_of(server: &Address) -> Option<String> {
        let stored = Self::stored().ok().flatten()?;
        (stored.server == *server).then_some(stored.ca)
    }

    /// Keeps it for later commands, for its owner's eyes alone.
    pub(crate) fn store(&self) -> anyhow::Result<PathBuf> {
        let path = path()?;
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let text = zeroize::Zeroizing::new(serde_json::to_vec_pretty(self)?);
        disk::write(&path, &text, Access::Owner, true)?;
        Ok(path)
    }

    /// Forgets what was stored; the server that it was for, if there was one.
    pub(crate) fn forget() -> anyhow::Result<Option<PathBuf>> {
        let path = path()?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(Some(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }

    fn stored() -> anyhow::Result<Option<Self>> {
        let path = path()?;
        if !path.exists() {
            return Ok(None);
        }
        let bytes = disk::read_secret(&path, MAX_FILE)?;
        let profile = serde_json::from_slice(&bytes);
        let profile = profile.with_context(|| format!("{} is damaged; log in again", path.display()))?;
        Ok(Some(profile))
    }
}

/// The file of the last login.
fn path() -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = match (variable("XDG_CONFIG_HOME"), variable("HOME")) {
        (Some(directory), _) => PathBuf::from(directory),
        (None, Some(home)) => PathBuf::from(home).join(".config"),
        (None, None) => {
            let message = "neither XDG_CONFIG_HOME nor HOME says where a login is kept; set one of them, or \
                           COTERIE_SERVER, COTERIE_KEY and COTERIE_CA";
            return Err(Stop::because(Exit::Usage, message));
        }
    };
    Ok(directory.join("coterie/server.json"))
}

fn nobody() -> anyhow::Error {
    let message = "no server is known; run `coterie login URL`, or set COTERIE_SERVER, COTERIE_KEY and COTERIE_CA";
    Stop::because(Exit::Usage, message)
}

/// A principal's key, as it was shown once.
pub(crate) fn parse_key(text: &str) -> anyhow::Result<SecretText> {
    let text = text.trim();
    let is_digit = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match text.strip_prefix(v1::KEY_PREFIX) {
        Some(digits) if digits.len() == KEY_DIGITS && digits.chars().all(is_digit) => {
            Ok(SecretText::new(text.to_owned()))
        }
        Some(_) | None => {
            let message = format!(
                "this is no key; a key begins with {} and has {KEY_DIGITS} characters after that, as `coterie key create` \
                 prints it once",
                v1::KEY_PREFIX
            );
            Err(Stop::because(Exit::Usage, message))
        }
    }
}

/// The text of a file with certificates.
pub(crate) fn read_ca(path: &std::path::Path) -> anyhow::Result<String> {
    let bytes = disk::read(path, MAX_FILE)?;
    String::from_utf8(bytes).with_context(|| format!("{} holds no certificates in PEM", path.display()))
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Address {
    /// A DNS name or an address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |why: &str| {
            Err(format!(
                "`{text}` is no server's URL: {why}; write https://HOST or https://HOST:PORT"
            ))
        };
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => return fault("only https is spoken"),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return fault("something follows the bracket"),
            },
            None if rest.parse::<std::net::Ipv6Addr>().is_ok() => (rest, None),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(is_allowed) {
            return fault("it has no host, or more than that");
        }
        let port = match port.map(str::parse) {
            None => v1::DEFAULT_PORT,
            Some(Ok(port)) if port != 0 => port,
            Some(_) => return fault("the port is no number from 1 to 65535"),
        };
        Ok(Self {
            host: host.to_lowercase(),
            port,
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}")
        } else {
            write!(f, "https://{host}:{port}")
        }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        for (text, expected) in [
            ("https://example.org", "https://example.org:4750"),
            ("HOST.example.org:443/", "https://host.example.org:443"),
            ("example.org", "https://example.org:4750"),
            ("127.0.0.1:4751", "https://127.0.0.1:4751"),
            ("https://[fd00::1]:4751", "https://[fd00::1]:4751"),
            ("https://[fd00::1]", "https://[fd00::1]:4750"),
            ("fd00::1", "https://[fd00::1]:4750"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), expected, "{text}");
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
        for bad in [
            "",
            "http://example.org",
            "https://",
            "https://example.org/path",
            "https://example.org:0",
            "https://example.org:port",
            "https://user@example.org",
            "https://[fd00::1]x",
            "https://example.org?x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_told_from_other_texts() {
        let key = format!("{}{}", v1::KEY_PREFIX, "aB3-_".repeat(8) + "xyz");
        assert_eq!(parse_key(&format!(" {key}\n")).unwrap().expose(), key);
        for bad in ["", "coterie-join-1.abc", "coterie-key-1.short", &format!("{key}x")] {
            let error = parse_key(bad).unwrap_err().to_string();
            assert!(!error.contains("short"), "a message shows no secret: {error}");
        }
    }
}
