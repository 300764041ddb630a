//! `coterie login` and `coterie logout`.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use clap::Args;
use coterie_api::remote::{RemoteError, Root, Trust};
use coterie_api::v1::{SecretText, WhoAmI};
use coterie_control::bundle;
use coterie_crypto::hash::sha256;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{
    Remote, ask,
    profile::{self, Address, Profile},
};
use crate::{
    disk,
    exit::{Exit, Stop},
    output,
};

/// Longest key that is read, with a line break.
const MAX_KEY: usize = 256;

#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// Where the server is: https://HOST, or https://HOST:PORT
    #[arg(value_name = "URL")]
    server: Address,
    /// The server's CA, in PEM; without it the one of the last login at the same server, else the CA's fingerprint is shown and
    /// asked about
    #[arg(long, value_name = "FILE", env = "COTERIE_CA", conflicts_with = "fingerprint")]
    ca: Option<PathBuf>,
    /// SHA-256 fingerprint of the server's CA, as its operator told it
    #[arg(long, value_name = "HEX", value_parser = parse_fingerprint)]
    fingerprint: Option<[u8; 32]>,
    /// Read the key from this file rather than from the terminal or standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

pub(crate) fn login(arguments: &LoginArguments) -> anyhow::Result<()> {
    let server = &arguments.server;
    let ca = match (&arguments.ca, arguments.fingerprint) {
        (Some(path), _) => profile::read_ca(path)?,
        (None, Some(pinned)) => shown_ca(server, Some(pinned))?,
        (None, None) => match Profile::ca_of(server) {
            Some(ca) => ca,
            None => shown_ca(server, None)?,
        },
    };
    let key = key(arguments.key_file.as_deref())?;
    let remote = Remote::open(server, Trust::from_pem(ca.as_bytes())?, &key)?;
    let me: WhoAmI = remote.get("/v1/whoami")?;
    let profile = Profile {
        server: server.clone(),
        key,
        ca,
    };
    let path = profile.store()?;
    output::print(&format!(
        "logged in at {server} as {} ({}), {}\nkept in {}",
        me.principal.name,
        me.principal.role.as_str(),
        me.tenant.map_or_else(
            || "the server's operator".to_owned(),
            |tenant| format!("tenant {tenant}")
        ),
        path.display()
    ))
}

pub(crate) fn logout() -> anyhow::Result<()> {
    match Profile::forget()? {
        Some(path) => output::print(&format!(
            "{} is removed; the key itself is good until `coterie key revoke`",
            path.display()
        )),
        None => output::print("there was no login"),
    }
}

/// The CA that the server shows, if its fingerprint is the right one or somebody says that it is.
fn shown_ca(server: &Address, pinned: Option<[u8; 32]>) -> anyhow::Result<String> {
    let certificate = look(server)?;
    let found = sha256(&[&certificate]);
    match pinned {
        Some(pinned) if pinned == found => {}
        Some(_) => {
            let message = format!(
                "{server} shows a CA with the fingerprint {}, not the one that was given; you may be talking to somebody else",
                fingerprint(&found)
            );
            return Err(Stop::because(Exit::NotReachable, message));
        }
        None => {
            eprintln!(
                "{server} shows a CA with this SHA-256 fingerprint:\n  {}",
                fingerprint(&found)
            );
            ask(
                "Is it what the server's operator told you?",
                "give the server's CA with --ca, or its fingerprint with --fingerprint",
            )?;
        }
    }
    Ok(bundle::to_pem(&certificate))
}

/// The certificate at the end of the server's chain. Nothing is sent to it but the greeting.
fn look(server: &Address) -> anyhow::Result<Vec<u8>> {
    let seen = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&seen);
    let trust = Trust::Root(Arc::new(move |root: Root<'_>| {
        if let Ok(mut noted) = noted.lock() {
            *noted = Some(root.certificate.to_vec());
        }
        false
    }));
    let nothing = SecretText::new(String::new());
    let outcome = Remote::open(server, trust, &nothing);
    let found = seen.lock().ok().and_then(|mut seen| seen.take());
    match (found, outcome) {
        (Some(certificate), _) => Ok(certificate),
        (None, Err(error)) if matches!(error.downcast_ref(), Some(RemoteError::NotTheServer { .. })) => {
            Err(error).context("the server shows no CA; give it with --ca")
        }
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(Stop::because(Exit::Failed, "the server shows no certificate")),
    }
}

fn key(file: Option<&Path>) -> anyhow::Result<SecretText> {
    if let Some(path) = file {
        let bytes = disk::read_secret(path, MAX_KEY)?;
        return profile::parse_key(&String::from_utf8_lossy(&bytes));
    }
    let mut text = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        eprint!("Key: ");
        std::io::stderr().flush()?;
        let _quiet = Quiet::new()?;
        std::io::stdin().lock().read_line(&mut text)?;
        eprintln!();
    } else {
        let limit = u64::try_from(MAX_KEY).unwrap_or(u64::MAX);
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_string(&mut text)
            .context("cannot read the key from standard input")?;
    }
    profile::parse_key(&text)
}

/// A terminal that does not show what is typed, until it is dropped.
struct Quiet(rustix::termios::Termios);

impl Quiet {
    fn new() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("cannot hide what is typed; pipe the key in, or use --key-file")?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The terminal may be gone, and then needs nothing.
        let _: rustix::io::Result<()> = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// As other programs print it: pairs of digits with colons between.
fn fingerprint(hash: &[u8; 32]) -> String {
    let pairs: Vec<String> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

fn parse_fingerprint(text: &str) -> Result<[u8; 32], String> {
    let fault = || {
        format!(
            "`{text}` is no SHA-256 fingerprint; it has 64 hexadecimal digits, as `openssl x509 -noout -fingerprint -sha256` \
             prints it"
        )
    };
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()
        .ok_or_else(fault)?;
    if digits.len() != 64 {
        return Err(fault());
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        let value = pair.iter().fold(0, |value, digit| value * 16 + digit);
        *byte = u8::try_from(value).map_err(|_| fault())?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_come_in_and_go_out() {
        let hash: [u8; 32] = core::array::from_fn(|n| u8::try_from(n * 8).unwrap());
        let text = fingerprint(&hash);
        assert!(text.starts_with("00:08:10:18:"), "{text}");
        assert_eq!(parse_fingerprint(&text), Ok(hash));
        assert_eq!(parse_fingerprint(&output::hex(&hash)), Ok(hash));
        for bad in ["", "00", "zz", &format!("{text}:00")] {
            assert!(parse_fingerprint(bad).is_err(), "{bad}");
        }
    }
}
