//! The ways by which an application reaches the server: doors of the enclave, where the token names some, and the server itself.
//! They are tried in turn until one brings an answer that is the server's.

use std::time::Duration;

use anyhow::{Context, bail};
use coterie_control::enrol::{Reply, Sealed, Token};
use coterie_crypto::dh::PublicKey;
use sd_notify::NotifyState;

use super::{Refused, visit::Visits};
use crate::{
    driver::now,
    entropy::{SystemEntropy, jittered},
    follow::link::{self, Dialer},
    service::notify,
};

/// How long doors have, where others are to be tried too, or have refused.
const DOORS_FIRST: Duration = Duration::from_secs(3);
/// First wait when nobody answered; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long the service manager may wait from here on, each time it is told, in microseconds.
const PATIENCE_USEC: u32 = 60_000_000;

/// What one way brought.
pub(super) enum Came {
    /// An answer, by the door of this key or by a server.
    Answer(Vec<u8>, Option<PublicKey>),
    /// None in the time that there was.
    Nothing,
}

/// Carries the application until it is answered.
///
/// # Errors
/// [`Refused`] when everybody who can be reached says that the server refuses; that a way cannot be tried at all.
pub(super) fn carry(
    token: &Token,
    sealed: &Sealed,
    mark: Option<u32>,
    mut visits: Option<Visits<'_>>,
) -> anyhow::Result<Reply> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("cannot make a runtime for the way to the server")?;
    // A refusal is a word without a proof: one way's word ends nothing while there is another way.
    let mut refused = Refusals::default();
    let mut wait = FIRST_WAIT;
    loop {
        still_trying();
        if let Some(visits) = &mut visits {
            let others = !token.servers.is_empty() || !refused.doors.is_empty();
            let until = others.then(|| now() + DOORS_FIRST);
            while let Came::Answer(bytes, door) = visits.call(&refused.doors, until)? {
                if let Some(reply) = judge(sealed, &bytes, "a door")? {
                    return Ok(reply);
                }
                refused.doors.extend(door);
            }
        }
        for (n, server) in token.servers.iter().enumerate() {
            if refused.servers.contains(&n) {
                continue;
            }
            still_trying();
            match runtime.block_on(ask(token, *server, sealed, mark)) {
                Ok(bytes) => {
                    if let Some(reply) = judge(sealed, &bytes, "the server")? {
                        return Ok(reply);
                    }
                    refused.servers.push(n);
                }
                Err(error) => tracing::warn!("no enrolment yet: {error}"),
            }
        }
        if refused.doors.len() >= token.doors.len() && refused.servers.len() >= token.servers.len() {
            bail!(Refused);
        }
        // One that refuses and others that are silent: the refusal may well be the server's.
        if refused.is_enough() {
            bail!(Refused);
        }
        std::thread::sleep(jittered(wait, &mut SystemEntropy));
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Tells the service manager that the start goes on.
pub(super) fn still_trying() {
    notify(&[
        NotifyState::ExtendTimeoutUsec(PATIENCE_USEC),
        NotifyState::Status("waiting for a door of the enclave, or its server"),
    ]);
}

/// Who said that the server refuses.
#[derive(Default)]
struct Refusals {
    doors: Vec<PublicKey>,
    servers: Vec<usize>,
    /// Rounds with a refusal in which nobody said otherwise.
    rounds: u32,
}

impl Refusals {
    /// Whether others had time enough to say something else.
    fn is_enough(&mut self) -> bool {
        self.rounds += u32::from(!self.doors.is_empty() || !self.servers.is_empty());
        self.rounds >= 3
    }
}

/// The server's reply, if it is one: `None` is a refusal, or what somebody else made up.
fn judge(sealed: &Sealed, answer: &[u8], who: &str) -> anyhow::Result<Option<Reply>> {
    match sealed.open_reply(answer) {
        Ok(Some(reply)) => Ok(Some(reply)),
        Ok(None) => {
            tracing::warn!("{who} says that this machine is refused");
            Ok(None)
        }
        Err(_) => {
            tracing::warn!("{who} gave an answer that is not the server's; somebody stands there who should not");
            Ok(None)
        }
    }
}

async fn ask(
    token: &Token,
    to: std::net::SocketAddr,
    sealed: &Sealed,
    mark: Option<u32>,
) -> Result<Vec<u8>, coterie_api::remote::RemoteError> {
    let (name, tls) = link::stranger(token.enclave, token.root_hash)?;
    let connection = Dialer { to, mark, name, tls }.connect().await?;
    let answer = link::apply(&connection, sealed.bytes.clone(), None).await?;
    Ok(answer.to_vec())
}
