//! From a join token to an identity: the machine applies to the server, through a door of the enclave or directly, and gets its
//! bundle (WIRE section 8, BUNDLE section 9). Keys are made here and never leave the machine.

mod facts;
mod pass;
mod visit;
mod ways;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use coterie_control::{
    bundle::{Bundle, Keys, Request},
    enrol::{Application, Sealed, Ticket, seal},
    file::DEFAULT_PORT,
};
use coterie_crypto::Secret;
use coterie_io::udp::{UdpOptions, UdpPort};
use coterie_model::UnixTime;
use coterie_proto::bootstrap::MAX_REQUEST;
use sd_notify::NotifyState;
use zeroize::Zeroizing;

use crate::{
    disk::{check_private, make_private_directory, write_private},
    driver::now,
    entropy::SystemEntropy,
    identity::{Identity, Origin, boot},
    network::{self, MARK},
    options::Options,
    service::notify,
};
pub use pass::Pass;
use visit::Visits;

/// The server refuses the machine, as far as all who can be reached say.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server refuses this machine; the token may be spent or ended, or for a machine of another name (`--name`) or place: the \
     server's administrator sees which with `coterie audit tail`, and can make a new one"
)]
pub struct Refused;

/// A machine that applies.
struct Applicant {
    keys: Keys,
    sealed: Sealed,
}

impl Applicant {
    /// Makes keys, and with them an application.
    fn new(options: &Options, pass: &Pass, time: UnixTime) -> anyhow::Result<Self> {
        if pass.token.not_after <= time && pass.ticket.is_none() {
            tracing::warn!("the token has ended, if this machine's clock is right; a new one may be needed");
        }
        let keys = Keys::generate(facts::name(options)?, &mut SystemEntropy);
        let application = Application {
            request: Request::new(&keys).context("cannot make a request")?,
            facts: facts::facts(),
            ticket: pass.ticket.as_ref().map(Secret::duplicate),
        };
        let sealed = seal(&pass.token, &keys.static_key(), &application, &mut SystemEntropy)
            .ok()
            .context("the token's server key is none; have a new token made")?;
        if sealed.bytes.len() > MAX_REQUEST {
            bail!("the application is too long for a door; shorten the machine's labels");
        }
        tracing::info!(
            name = %keys.name(), doors = pass.token.doors.len(), servers = pass.token.servers.len(), "enrolling"
        );
        Ok(Self { keys, sealed })
    }

    /// Applies until the server has answered: who the machine is now, and its ticket for the next time.
    fn apply(
        self,
        pass: &Pass,
        time: UnixTime,
        (udp, mark): (Option<UdpPort>, Option<u32>),
    ) -> anyhow::Result<(Identity, Option<Ticket>)> {
        let (keys, token) = (&self.keys, &pass.token);
        let visits = udp.map(|udp| Visits::new(udp, keys.static_key(), token, &self.sealed));
        let reply = ways::carry(token, &self.sealed, mark, visits)?;
        Bundle::parse(&reply.bundle)
            .and_then(|bundle| bundle.open(keys, Some(token.root_hash), time, 0))
            .context("the bundle that the server answered with cannot be used; is this machine's clock right?")?;
        let identity = Identity {
            bundle: Zeroizing::new(reply.bundle),
            keys: Zeroizing::new(keys.to_text().as_bytes().to_vec()),
            origin: Origin::Enrolled,
            boot: boot(),
            known: None,
        };
        Ok((identity, reply.ticket))
    }
}

/// Applies until the server has answered.
///
/// # Errors
/// [`Refused`]; also when what the server answers is not of the enclave that the token pins.
pub fn enrol(options: &Options, pass: &Pass, time: UnixTime) -> anyhow::Result<Identity> {
    let applicant = Applicant::new(options, pass, time)?;
    let any = (IpAddr::from([0u16; 8]), DEFAULT_PORT).into();
    let udp = match pass.token.doors[..] {
        [] => None,
        _ => Some(network::bind_outside(options, any)?),
    };
    let (identity, ticket) = applicant.apply(pass, time, (udp, Some(MARK)))?;
    pass.used(options, ticket.as_ref())?;
    forget_refusals(options);
    Ok(identity)
}

/// Applies, writes bundle and keys where the command line says, and does nothing else: no interface, no lockdown, no privilege.
///
/// # Errors
/// As [`enrol`]; also when files cannot be written, or there is no token.
pub fn only(options: &Options, time: UnixTime) -> anyhow::Result<()> {
    let pass = Pass::find(options)?.context("--enrol-only takes a join token: give it with --token")?;
    // The token is good once: what can fail is tried before it is used.
    for path in [&options.keys, &options.bundle] {
        check_private(path).with_context(|| format!("cannot write {}, so the token was not used", path.display()))?;
    }
    let applicant = Applicant::new(options, &pass, time)?;
    let udp = match pass.token.doors[..] {
        [] => None,
        _ => {
            let any = (IpAddr::from([0u16; 8]), 0).into();
            Some(network::bind(options, any, &UdpOptions::default())?)
        }
    };
    let (identity, ticket) = applicant.apply(&pass, time, (udp, None))?;
    for (path, bytes) in [(&options.keys, &identity.keys), (&options.bundle, &identity.bundle)] {
        write_private(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if ticket.is_some() {
        make_private_directory(&options.state).with_context(|| format!("cannot make {}", options.state.display()))?;
        pass.used(options, ticket.as_ref())?;
    }
    Ok(())
}

/// The file of the state directory that counts refusals in a row.
const REFUSALS: &str = "refusals";
/// Longest rest after a refusal.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// Rests after a refusal before the daemon ends, so that the service manager, which starts it again, asks the server ever more
/// rarely: 2 s after the first one, twice as long after each, and no longer than until another token is there.
pub fn rest(options: &Options) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let path = options.state.join(REFUSALS);
    let count = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let count: u32 = count.unwrap_or(0);
    if let Err(error) = std::fs::write(&path, (count + 1).to_string()) {
        tracing::debug!(%error, "refusals are not counted");
    }
    let id = || Pass::find(options).ok().flatten().map(|pass| pass.token.id);
    let (refused, until) = (id(), now() + Duration::from_secs(2 << count.min(16)).min(LONGEST_REST));
    tracing::warn!(seconds = until.since(now()).as_secs(), "resting before the next try");
    while now() < until && id() == refused {
        notify(&[
            NotifyState::ExtendTimeoutUsec(5_000_000),
            NotifyState::Status("refused; waiting for another token, or for the next try"),
        ]);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The server took the machine: the next refusal is the first one.
fn forget_refusals(options: &Options) {
    // Where there were none there is no file.
    let _none = std::fs::remove_file(options.state.join(REFUSALS));
}
