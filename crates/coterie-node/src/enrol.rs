//! From a join token to an identity: the machine calls at a door, applies to the server through it, and gets its bundle
//! (WIRE section 8, BUNDLE section 9). Keys are made here and never leave the machine.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use coterie_control::{
    bundle::{Bundle, Keys, Request},
    enrol::{Application, Sealed, Ticket, Token, seal},
    file::{DEFAULT_PORT, Facts, Uuid},
};
use coterie_crypto::{Secret, aead::Suite};
use coterie_io::{
    poll::{Interest, Poller},
    udp::{RecvBatch, SendBatch, UdpPort},
};
use coterie_model::{Name, UnixTime};
use coterie_proto::{
    Persist,
    bootstrap::{MAX_REQUEST, Rendezvous, Visit, Visitor},
    handshake::payload::Suites,
};
use sd_notify::NotifyState;
use zeroize::Zeroizing;

use crate::{
    disk::write_private,
    driver::{now, push},
    entropy::SystemEntropy,
    identity::{Identity, Origin, boot, has_aes},
    journal::Journal,
    network,
    options::Options,
    service::notify,
};

/// The token among what the service manager passes (`LoadCredential=`).
const CREDENTIAL: &str = "coterie.token";
/// The file of the state directory that holds the ticket.
const TICKET: &str = "ticket";
/// Initiation counters of a visit.
const COUNTERS: u64 = 4096;
/// Calls after which the log says that nobody answers.
const CALLS: usize = 8;
/// How long the service manager may wait from here on, each time it is told, in microseconds.
const PATIENCE_USEC: u32 = 60_000_000;
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The join token of this machine, if it was given one.
///
/// # Errors
/// When there is one that cannot be read.
pub fn token(options: &Options) -> anyhow::Result<Option<Token>> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| PathBuf::from(dir).join(CREDENTIAL));
    let Some(path) = options
        .token
        .clone()
        .or_else(|| credential.filter(|path| path.exists()))
    else {
        return Ok(None);
    };
    let text = fs::read_to_string(&path)
        .map(Zeroizing::new)
        .with_context(|| format!("cannot read the token {}", path.display()))?;
    let token = Token::parse(&text).with_context(|| format!("{}", path.display()))?;
    Ok(Some(token))
}

/// Applies with `token` until the server has answered.
///
/// # Errors
/// When the server refuses, or what it answers is not of the enclave that the token pins.
pub fn enrol(options: &Options, token: &Token, time: UnixTime) -> anyhow::Result<Identity> {
    if token.not_after <= time {
        tracing::warn!("the token has ended, if this machine's clock is right; a new one may be needed");
    }
    let name = name(options)?;
    let keys = Keys::generate(name.clone(), &mut SystemEntropy);
    let application = Application {
        request: Request::new(&keys).context("cannot make a request")?,
        facts: facts(),
        ticket: ticket(options),
    };
    let sealed = seal(token, &keys.static_key(), &application, &mut SystemEntropy)
        .ok()
        .context("the token's server key is none; have a new token made")?;
    if sealed.bytes.len() > MAX_REQUEST {
        bail!("the application is too long for a door; shorten the machine's labels");
    }
    let mut journal = Journal::open(&options.state, *keys.static_key().public())?;
    let counter = journal.counter();
    // What the member starts with is above everything that the visit uses.
    journal.write(&Persist::Counter(counter + COUNTERS))?;
    let all = Suites::new(&Suite::ALL).expect("three suites");
    let preferred = if has_aes() {
        Suite::Aes256Gcm
    } else {
        Suite::ChaCha20Poly1305
    };
    let visit = Visit {
        keys: keys.static_key(),
        rendezvous: token
            .doors
            .iter()
            .map(|door| Rendezvous {
                endpoint: door.endpoint,
                static_key: door.static_key,
                knock: token.knock_key(&door.static_key),
            })
            .collect(),
        suites: (all, preferred),
        request: sealed.bytes.clone(),
        counter,
    };
    tracing::info!(%name, doors = token.doors.len(), "enrolling");
    let listen = options
        .listen
        .unwrap_or_else(|| (IpAddr::from([0u16; 8]), DEFAULT_PORT).into());
    let udp = network::bind_outside(options, listen)?;
    let answer = call(&udp, Visitor::new(visit, Box::new(SystemEntropy), now()))?;
    take(options, token, &keys, &sealed, &answer, time)
}

/// Carries the visit to its end.
fn call(udp: &UdpPort, mut visitor: Visitor) -> anyhow::Result<Vec<u8>> {
    let mut poller = Poller::new().context("cannot make a poller")?;
    poller
        .add(udp, 1, Interest::Read)
        .context("cannot watch the outside port")?;
    let (mut arrivals, mut out) = (RecvBatch::new(32, 2048), SendBatch::new(64 * 1024));
    let mut said = 0;
    loop {
        let at = now();
        if visitor.poll_timeout().is_some_and(|due| due <= at) {
            visitor.handle_timeout(at);
        }
        flush(&mut visitor, udp, &mut out);
        if visitor.calls() >= said + CALLS {
            said = visitor.calls();
            tracing::warn!(
                door = %visitor.at().endpoint,
                "no door lets this machine in yet; is the token alive, and UDP not blocked?"
            );
            notify(&[
                NotifyState::ExtendTimeoutUsec(PATIENCE_USEC),
                NotifyState::Status("waiting for a door of the enclave"),
            ]);
        }
        let wait = visitor.poll_timeout().map_or(LONGEST_WAIT, |due| due.since(now()));
        if poller.wait(Some(wait)).context("cannot wait for packets")?.is_empty() {
            continue;
        }
        udp.recv(&mut arrivals).context("cannot receive")?;
        for (_from, datagram) in arrivals.datagrams_mut() {
            if let (_, Some(answer)) = visitor.handle_outside(datagram, now()) {
                flush(&mut visitor, udp, &mut out);
                return Ok(answer);
            }
        }
        arrivals.clear();
    }
}

fn flush(visitor: &mut Visitor, udp: &UdpPort, out: &mut SendBatch) {
    while let Some(transmit) = visitor.poll_transmit() {
        if out.room() < transmit.bytes.len() {
            push(udp, out);
        }
        if let Some(mut room) = out.reserve(transmit.to, transmit.bytes.len()) {
            room.copy_from_slice(&transmit.bytes);
            room.commit();
        }
    }
    push(udp, out);
}

/// Checks what the server answered, and keeps the ticket for the next time.
fn take(
    options: &Options,
    token: &Token,
    keys: &Keys,
    sealed: &Sealed,
    answer: &[u8],
    time: UnixTime,
) -> anyhow::Result<Identity> {
    let reply = sealed
        .open_reply(answer)
        .ok()
        .context("the answer is not the server's; somebody stands at the door who should not")?
        .context(
            "the server refuses this machine; the token may be spent, ended or for something else: ask the server's \
             administrator, who sees which, for a new one",
        )?;
    Bundle::parse(&reply.bundle)
        .and_then(|bundle| bundle.open(keys, Some(token.root_hash), time, 0))
        .context("the server's answer is no bundle of the enclave that the token names")?;
    let path = options.state.join(TICKET);
    match &reply.ticket {
        Some(ticket) => write_private(&path, ticket.expose())
            .with_context(|| format!("cannot keep the ticket in {}", path.display()))?,
        None => forget(&path)?,
    }
    Ok(Identity {
        bundle: Zeroizing::new(reply.bundle),
        keys: Zeroizing::new(keys.to_text().as_bytes().to_vec()),
        origin: Origin::Enrolled,
        boot: boot(),
    })
}

fn forget(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn ticket(options: &Options) -> Option<Ticket> {
    let bytes = Zeroizing::new(fs::read(options.state.join(TICKET)).ok()?);
    Secret::from_slice(&bytes)
}

/// The name that the machine asks for.
fn name(options: &Options) -> anyhow::Result<Name> {
    if let Some(name) = &options.name {
        return Ok(name.clone());
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the machine's name")?;
    let short = host.trim().split('.').next().unwrap_or_default().to_lowercase();
    Name::new(&short).with_context(|| {
        format!("the machine's name {short:?} can be no member's; name it with --name (letters, digits and hyphens)")
    })
}

/// What the machine knows of itself. What cannot be read is not known.
fn facts() -> Facts {
    let text = |path: &str| fs::read_to_string(path).ok();
    let memory = text("/proc/meminfo").and_then(|all| {
        let line = all.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    });
    let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mac = links
        .filter(|link| link.path().join("device").exists())
        .filter_map(|link| mac(&fs::read_to_string(link.path().join("address")).ok()?))
        .collect();
    Facts {
        name: text("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()),
        labels: std::collections::BTreeMap::new(),
        mac,
        uuid: text("/sys/class/dmi/id/product_uuid").and_then(|text| uuid(&text)),
        cpus: std::thread::available_parallelism()
            .ok()
            .and_then(|n| u64::try_from(n.get()).ok()),
        memory,
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    hexadecimal(&text.trim().replace(':', ""))
}

fn uuid(text: &str) -> Option<Uuid> {
    hexadecimal(&text.trim().replace('-', "")).map(Uuid::from_bytes)
}

fn hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_of_itself_is_read() {
        assert_eq!(mac("52:54:00:12:34:56\n"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(mac("52:54:00:12:34"), None);
        assert_eq!(mac("52:54:00:12:34:5g"), None);
        let text = "4C4C4544-0042-3510-8054-B4C04F4E3132\n";
        assert_eq!(uuid(text).map(|u| u.to_string()), Some(text.trim().to_lowercase()));
        let known = facts();
        assert!(known.cpus.is_some_and(|n| n > 0) && known.memory.is_some_and(|n| n > 1 << 20));
        assert!(known.name.is_some());
    }
}
