//! What lets a machine in: a join token that it was given, or the token of before with the ticket that came then.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use coterie_control::enrol::{Ticket, Token};
use coterie_crypto::Secret;
use zeroize::Zeroizing;

use crate::{
    disk::{remove_private, write_private},
    hex,
    options::Options,
};

/// The token among what the service manager passes (`LoadCredential=`).
const CREDENTIAL: &str = "coterie.token";
/// The file of the state directory that holds the ticket.
const TICKET: &str = "ticket";
/// The one beside it, which holds the token that the ticket is used with.
const TOKEN: &str = "token";
/// The one that says which token was used last, by its identifier, which is no secret.
const USED: &str = "token-used";

/// What lets a machine in.
#[derive(Debug)]
pub struct Pass {
    /// The token.
    pub token: Token,
    text: Zeroizing<String>,
    /// The ticket of the enrolment before.
    pub ticket: Option<Ticket>,
    /// Whether the token was not used yet by this machine.
    pub is_fresh: bool,
}

impl Pass {
    /// What this machine has: a token that it was given and has not used yet comes before the one of its ticket, and that before
    /// one that it has used (which may have uses left).
    ///
    /// # Errors
    /// When a token is there that cannot be read.
    pub fn find(options: &Options) -> anyhow::Result<Option<Self>> {
        let given = given(options)?.map(|path| read(&path)).transpose()?;
        let used = fs::read_to_string(options.state.join(USED)).ok();
        let ticket = ticket(options);
        let kept = options.state.join(TOKEN);
        let kept = (ticket.is_some() && kept.exists()).then(|| read(&kept)).transpose()?;
        let is_fresh = |token: &Token| used.as_deref() != Some(&hex::encode(&token.id));
        let chosen = match (given, kept) {
            (Some(given), Some(kept)) if !is_fresh(&given.0) => Some(kept),
            (Some(given), _) => Some(given),
            (None, kept) => kept,
        };
        Ok(chosen.map(|(token, text)| Self {
            is_fresh: is_fresh(&token),
            token,
            text,
            ticket,
        }))
    }

    /// Whether it may let a machine in again that was let in before.
    #[must_use]
    pub fn readmits(&self) -> bool {
        self.is_fresh || self.ticket.is_some()
    }

    /// Remembers that it was used, and keeps the ticket for the next time: on disk before the new identity is used.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn used(&self, options: &Options, next: Option<&Ticket>) -> anyhow::Result<()> {
        let keep = |name: &str, bytes: &[u8]| {
            let path = options.state.join(name);
            write_private(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        match next {
            Some(ticket) => {
                keep(TOKEN, self.text.as_bytes())?;
                keep(TICKET, ticket.expose())?;
            }
            None => {
                forget(&options.state.join(TICKET))?;
                forget(&options.state.join(TOKEN))?;
            }
        }
        keep(USED, hex::encode(&self.token.id).as_bytes())
    }
}

/// The file with the token that this machine was given.
fn given(options: &Options) -> anyhow::Result<Option<PathBuf>> {
    if let Some(path) = &options.token {
        // One that was used may have been taken away since.
        let kept = options.state.join(TICKET).exists();
        return Ok(Some(path.clone()).filter(|path| path.exists() || !kept));
    }
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| PathBuf::from(dir).join(CREDENTIAL));
    Ok(credential.filter(|path| path.exists()))
}

fn read(path: &Path) -> anyhow::Result<(Token, Zeroizing<String>)> {
    let text = fs::read_to_string(path).map(Zeroizing::new).with_context(|| {
        format!(
            "cannot read the token {}; give the file that holds it with --token",
            path.display()
        )
    })?;
    let token = Token::parse(&text).with_context(|| format!("{}", path.display()))?;
    Ok((token, text))
}

fn ticket(options: &Options) -> Option<Ticket> {
    let bytes = Zeroizing::new(fs::read(options.state.join(TICKET)).ok()?);
    Secret::from_slice(&bytes)
}

fn forget(path: &Path) -> anyhow::Result<()> {
    remove_private(path).with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use coterie_crypto::SeededEntropy;
    use coterie_model::{EnclaveId, UnixTime};

    use super::*;

    fn token(n: u64) -> Token {
        let servers = vec!["192.0.2.1:4750".parse().unwrap()];
        let mut entropy = SeededEntropy::from_number(n);
        Token::draw(
            (EnclaveId([7; 16]), [1; 32]),
            [2; 32],
            UnixTime(9),
            vec![],
            servers,
            &mut entropy,
        )
    }

    struct Machine {
        _dir: tempfile::TempDir,
        file: PathBuf,
        options: Options,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("given");
            let mut options = Options::parse_from(
                ["coteried", "--token"]
                    .map(Into::into)
                    .into_iter()
                    .chain([file.clone().into_os_string()]),
            );
            options.state = dir.path().to_owned();
            Self {
                _dir: dir,
                file,
                options,
            }
        }

        fn give(&self, token: &Token) {
            fs::write(&self.file, token.to_text().as_bytes()).unwrap();
        }

        fn pass(&self) -> Pass {
            Pass::find(&self.options).unwrap().unwrap()
        }
    }

    #[test]
    fn a_fresh_token_comes_before_the_tickets_and_that_before_a_used_one() {
        let machine = Machine::new();
        assert!(Pass::find(&machine.options).is_err(), "it was named and is not there");
        machine.give(&token(1));
        let pass = machine.pass();
        assert!(pass.is_fresh && pass.readmits() && pass.ticket.is_none());
        pass.used(&machine.options, None).unwrap();
        let pass = machine.pass();
        assert!(
            !pass.is_fresh && !pass.readmits(),
            "spent, as far as this machine knows"
        );
        // The server gives a ticket with another one.
        machine.give(&token(2));
        let pass = machine.pass();
        assert!(pass.is_fresh);
        pass.used(&machine.options, Some(&Secret::new([5; 32]))).unwrap();
        fs::remove_file(&machine.file).unwrap();
        let pass = machine.pass();
        assert_eq!(
            (pass.token.id, pass.is_fresh, pass.readmits()),
            (token(2).id, false, true)
        );
        assert_eq!(pass.ticket.unwrap().expose(), &[5; 32]);
        machine.give(&token(2));
        assert_eq!(machine.pass().token.id, token(2).id);
        machine.give(&token(1));
        let pass = machine.pass();
        assert_eq!(
            (pass.token.id, pass.is_fresh),
            (token(1).id, true),
            "another one than was used last"
        );
        pass.used(&machine.options, None).unwrap();
        assert!(machine.pass().ticket.is_none(), "the template wants none any more");
    }
}
