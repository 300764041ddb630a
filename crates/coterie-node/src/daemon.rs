//! Start and stop, in order. Lockdown is loaded before the outside port opens and stays when the daemon dies; only a stop
//! that a person asked for (`coterie down`, SIGTERM outside of systemd's restart) leaves it to the template.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use coterie_api::{Answer, Failure, Reply};
use coterie_control::bundle::{Freshness, Keys, Opened};
use coterie_io::{
    clock,
    lockdown::Lockdown,
    memory::{self, Sealed},
    udp::UdpPort,
};
use coterie_model::{Prefix, UnixTime};
use sd_notify::NotifyState;

use crate::{
    certificates::{self, Certificates},
    disk::make_private_directory,
    driver::{Driver, Left, Own, Parts, Serving, now},
    enrol::{self, Pass},
    follow::{self, Follow, Remembered, Renewed, Say, follower::Word, link::Credentials},
    identity::{self, Fixed, Identity, Kept, KnownTime, STORE_NAME, boot},
    journal::Journal,
    metrics, network,
    options::{LogFormat, Options},
    requests::{Asker, Requests, serve, watch_signals},
    service::notify,
};

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What went wrong, where, and what to do; the caller prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    start_log(options)?;
    memory::forbid_dumps().context("cannot keep this process out of core dumps")?;
    if options.enrol_only {
        return enrol::only(options, wall());
    }
    if let Err(error) = memory::lock_process_memory() {
        tracing::debug!(%error, "memory is not locked; keys may be swapped out");
    }
    let mut passed = None;
    for (name, descriptor) in
        memory::take_passed_descriptors().context("cannot take what the service manager passed")?
    {
        if name == STORE_NAME {
            passed = Some(Sealed::from_descriptor(descriptor)?);
        }
    }
    let kept = Arc::new(Kept::new(passed));
    make_private_directory(&options.state).with_context(|| format!("cannot make {}", options.state.display()))?;
    // A machine that was dark stays dark, also when what follows fails: an ended membership does not open it.
    let mut last = network::last_lockdown(options)?;
    load(last.as_ref())?;
    let start = identify(options, &kept, &mut last)?;
    let (mut driver, before) = raise(options, &kept, start, last)?;
    tracing::info!(
        interface = driver.tun.name(),
        port = driver.port,
        identity = driver.identity,
        "ready"
    );
    notify(&[NotifyState::Ready]);
    let ending = attend(options, &mut driver, before)?;
    drop(driver);
    certificates::take_away(options);
    // Port and interface are free now. Who asks from here on is told that nobody is there, and not that nobody answers.
    if let Err(error) = std::fs::remove_file(&options.socket) {
        tracing::debug!(%error, "the control socket was gone already");
    }
    match ending {
        Ending::Stopped => {
            tracing::info!("stopped");
            Ok(())
        }
        Ending::Again => begin_again(),
    }
}

/// How the daemon ends.
enum Ending {
    /// For good.
    Stopped,
    /// To begin again as another member: the machine was forked, or is none any more, and something lets it in.
    Again,
}

/// Begins again from nothing, in the same process: of what it knew nothing is left.
fn begin_again() -> anyhow::Result<()> {
    tracing::info!("this machine was forked or restored, or is no member any more, and enrols anew");
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1));
    // What the service manager passed at the first start is not there again.
    for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        command.env_remove(variable);
    }
    Err(std::os::unix::process::CommandExt::exec(&mut command)).context("cannot begin again; start coteried anew")
}

/// Who the machine is, opened.
struct Start {
    identity: Identity,
    keys: Keys,
    journal: Journal,
    opened: Opened,
    /// Protocol time.
    time: UnixTime,
}

impl Start {
    fn with(options: &Options, identity: Identity) -> anyhow::Result<Self> {
        let keys = identity.parse_keys(options)?;
        let journal = Journal::open(&options.state, *keys.static_key().public())
            .with_context(|| format!("cannot open the journal in {}", options.state.display()))?;
        let time = identity.time(wall(), now());
        let opened = identity.open(options, time, journal.serial())?;
        Ok(Self {
            time: opened.issued.max(time),
            identity,
            keys,
            journal,
            opened,
        })
    }
}

/// Finds out who the machine is: by files, by what was kept, or by a token.
fn identify(options: &Options, kept: &Kept, last: &mut Option<Lockdown>) -> anyhow::Result<Start> {
    let pass = match Identity::find(options, kept)? {
        Some(identity) => {
            let by_token = identity.boot.is_some();
            let error = match Start::with(options, identity) {
                Ok(start) => return Ok(start),
                Err(error) => error,
            };
            // A lease that ended, or a machine that was copied: another token, or its ticket, lets it in again.
            match Pass::find(options)?.filter(|pass| by_token && pass.readmits()) {
                Some(pass) => {
                    tracing::warn!("what was kept is of no use any more, the machine enrols anew: {error:#}");
                    pass
                }
                None => return Err(error),
            }
        }
        None => match Pass::find(options)? {
            Some(pass) => pass,
            None => return Start::with(options, Identity::load(options, kept)?),
        },
    };
    let dark = network::lockdown_before(options, last.as_ref(), &pass.token.servers)?;
    if dark.is_some() && dark != *last {
        load(dark.as_ref())?;
        *last = dark;
    }
    Start::with(options, enrol::enrol(options, &pass, wall())?)
}

/// Makes interface, port, core and loop.
fn raise(
    options: &Options,
    kept: &Arc<Kept>,
    start: Start,
    last: Option<Lockdown>,
) -> anyhow::Result<(Driver, Before)> {
    let Start {
        mut identity,
        keys,
        mut journal,
        opened,
        time,
    } = start;
    journal.accept_serial(opened.serial)?;
    let at = now();
    let is_served = opened.freshness == Freshness::Heads;
    identity.known = boot().filter(|_| is_served).map(|boot| KnownTime { boot, at, time });
    kept.keep(options, &identity)?;

    let lockdown = network::lockdown(options, &opened)?;
    load(lockdown.as_ref())?;
    if let (None, Some(last)) = (&lockdown, &last) {
        last.remove()
            .context("cannot take away the lockdown that is no longer wanted")?;
    }
    network::remember_lockdown(options, lockdown.as_ref())?;
    let inside = network::make_inside(options, &opened)?;
    let udp = network::open_outside(options, &opened)?;
    let port = udp.local_address()?.port();
    let (requests, asker) = Requests::new()?;
    watch_signals(asker.clone())?;
    let before = Before {
        kept: Arc::clone(kept),
        fixed: Fixed::of(options, &opened, &keys),
        inside: Inside::of(&opened),
        boot: identity.boot.clone(),
        asker: asker.clone(),
    };
    let own = before.own(&before.fixed, &keys, &opened);
    let credentials = credentials(&opened, &keys, identity.boot.clone())?;
    let mut remembered = match &credentials {
        Some(credentials) => Remembered::read(&options.state, &credentials.owner(), &credentials.signer),
        None => Remembered::default(),
    };
    let certificates = Certificates::of(&opened);
    let mut config = identity::config(opened, &keys, &journal, time);
    remembered.put_into(&mut config.update);
    let mut node = identity::node(config, &journal, at);
    for word in std::mem::take(&mut remembered.epochs) {
        if let Word::Epochs(tag, manifests) = word {
            node.handle_epochs(tag, manifests, at);
        }
    }
    let follow = credentials
        .map(|credentials| {
            Follow::start(follow::Parts {
                options: options.clone(),
                kept: Arc::clone(kept),
                credentials,
                mark: remembered.mark,
                renew: remembered.renew,
                revision: node.revision(),
                time: (time, at),
                asker: asker.clone(),
            })
        })
        .transpose()?;
    let parts = Parts {
        node,
        inside,
        udp,
        journal,
        lockdown,
        port,
        identity: identity.origin.name(),
        requests,
        serving: Serving {
            options: options.clone(),
            kept: Arc::clone(kept),
            follow,
            identity: own,
        },
    };
    // The files' bytes are wiped here: from now on the core, and who follows the server, hold what they need of them.
    drop((identity, keys));
    let driver = Driver::new(parts)?;
    serve(&options.socket, asker.clone())?;
    certificates.show(options);
    if let Some(address) = options.metrics {
        metrics::serve(address, asker)?;
    }
    Ok((driver, before))
}

/// Who follows the server, where the bundle names one.
fn credentials(opened: &Opened, keys: &Keys, boot: Option<String>) -> anyhow::Result<Option<Credentials>> {
    if opened.servers.is_empty() {
        return Ok(None);
    }
    let keys = Keys::parse(keys.to_text().as_bytes()).context("keys that were read before")?;
    Credentials::new(opened, keys, boot).map(Some)
}

/// Puts lockdown in force, if it is wanted.
fn load(lockdown: Option<&Lockdown>) -> anyhow::Result<()> {
    let Some(lockdown) = lockdown else { return Ok(()) };
    let installed = lockdown
        .install()
        .context("cannot load lockdown, so nothing is started (it fails closed)")?;
    if !installed.egress {
        tracing::warn!("this kernel has no egress hook: programs with raw sockets are not stopped");
    }
    Ok(())
}

/// What a reload and a renewal compare with.
struct Before {
    kept: Arc<Kept>,
    fixed: Fixed,
    inside: Inside,
    boot: Option<String>,
    asker: Asker,
}

impl Before {
    fn own(&self, fixed: &Fixed, keys: &Keys, opened: &Opened) -> Own {
        // An identity that ends with the boot came by a token.
        Own::new(keys, fixed.suites(), opened.pools.clone(), self.boot.is_some())
    }
}

/// What of a bundle the inside interface shows.
#[derive(PartialEq, Eq)]
struct Inside {
    addresses: BTreeSet<Prefix>,
    pools: Vec<Prefix>,
}

impl Inside {
    fn of(opened: &Opened) -> Self {
        let addresses = opened.statements.iter().flat_map(|s| s.addresses.iter().copied());
        Self {
            addresses: addresses.collect(),
            pools: opened.pools.clone(),
        }
    }
}

fn attend(options: &Options, driver: &mut Driver, mut before: Before) -> anyhow::Result<Ending> {
    loop {
        match driver.run()? {
            Left::Reload(asker) => {
                notify(&[
                    NotifyState::Reloading,
                    NotifyState::monotonic_usec_now().context("cannot read the clock")?,
                ]);
                let reply = match reload(options, driver, &mut before) {
                    Ok(()) => {
                        tracing::info!("bundle taken over");
                        Reply::Ok(Answer::Done)
                    }
                    Err(error) => {
                        tracing::error!("bundle not taken over, going on as before: {error:#}");
                        Reply::Error(Failure {
                            code: "bad-bundle".into(),
                            message: format!("the bundle is not taken over: {error:#}"),
                            remedy: "coteried goes on as before".into(),
                        })
                    }
                };
                notify(&[NotifyState::Ready]);
                if let Some(asker) = asker {
                    // Who asked may have gone.
                    let _gone = asker.try_send(reply);
                }
            }
            Left::Renewed(renewed) => match take_renewed(options, driver, &mut before, *renewed) {
                Ok(()) => tracing::debug!("the server's bundle is taken over"),
                Err(error) => tracing::error!("the server's bundle is not taken over, going on as before: {error:#}"),
            },
            Left::Stop => {
                notify(&[NotifyState::Stopping]);
                driver.shut_down()?;
                return Ok(Ending::Stopped);
            }
            Left::Anew => {
                driver.shut_down()?;
                return Ok(Ending::Again);
            }
        }
    }
}

/// Reads the bundle again. What a running core can learn it takes over without a break; else a new core takes over.
fn reload(options: &Options, driver: &mut Driver, before: &mut Before) -> anyhow::Result<()> {
    let mut identity = Identity::load(options, &before.kept)?;
    let keys = identity.parse_keys(options)?;
    let own_key = *keys.static_key().public();
    // Everything that can fail comes before anything changes for the node.
    let mut other = if driver.node.static_key() == &own_key {
        None
    } else {
        Some(Journal::open(&options.state, own_key)?)
    };
    let at = now();
    let known = driver.node.time(at);
    let time = if before.fixed.is_served() { known } else { wall() };
    let floor = other.as_ref().unwrap_or(&driver.journal).serial();
    let opened = identity.open(options, time, floor)?;
    let then = Fixed::of(options, &opened, &keys);
    let udp = if then.outside == before.fixed.outside {
        None
    } else {
        Some(network::open_outside(options, &opened)?)
    };
    let credentials = credentials(&opened, &keys, identity.boot.clone())?;
    other
        .as_mut()
        .unwrap_or(&mut driver.journal)
        .accept_serial(opened.serial)?;
    identity.known = boot()
        .filter(|_| then.is_served())
        .map(|boot| KnownTime { boot, at, time: known });
    before.kept.keep(options, &identity)?;
    before.boot.clone_from(&identity.boot);
    let certificates = Certificates::of(&opened);
    let change = Change {
        opened,
        keys,
        then,
        other,
        udp,
        time: (time, known),
    };
    let anew = take_over(options, driver, before, change)?;
    certificates.show(options);
    match (credentials, driver.follow()) {
        (Some(credentials), Some(follow)) => follow.say(Say::Identity {
            credentials: Box::new(credentials),
            anew,
        }),
        (Some(credentials), None) => driver.set_follow(Follow::start(follow::Parts {
            options: options.clone(),
            kept: Arc::clone(&before.kept),
            credentials,
            mark: 0,
            renew: false,
            revision: driver.node.revision(),
            time: (driver.node.time(at), at),
            asker: before.asker.clone(),
        })?),
        (None, _) => driver.end_follow(),
    }
    Ok(())
}

/// A bundle of the server, which is kept already.
fn take_renewed(options: &Options, driver: &mut Driver, before: &mut Before, renewed: Renewed) -> anyhow::Result<()> {
    let Renewed {
        opened,
        fixed: then,
        keys,
    } = renewed;
    if keys.static_key().public() != driver.node.static_key() {
        // It was on its way while another identity was taken over.
        return Ok(());
    }
    let at = now();
    let time = driver.node.time(at);
    let journal = driver.journal.note_serial(opened.serial)?;
    let udp = if then.outside == before.fixed.outside {
        None
    } else {
        Some(network::open_outside(options, &opened)?)
    };
    // Whoever follows has them already, but must hear of a new core.
    let credentials = match then == before.fixed {
        true => None,
        false => credentials(&opened, &keys, before.boot.clone())?,
    };
    let certificates = Certificates::of(&opened);
    let change = Change {
        opened,
        keys,
        then,
        other: None,
        udp,
        time: (time, time),
    };
    let anew = take_over(options, driver, before, change)?;
    certificates.show(options);
    if let Some(follow) = driver.follow() {
        follow.say(Say::Taken(journal));
        if let Some(credentials) = credentials {
            follow.say(Say::Identity {
                credentials: Box::new(credentials),
                anew,
            });
        }
    }
    Ok(())
}

/// A bundle that was opened, with what can be had before anything changes.
struct Change {
    opened: Opened,
    keys: Keys,
    then: Fixed,
    other: Option<Journal>,
    udp: Option<UdpPort>,
    /// What time it is for a core that runs, and for a new one.
    time: (UnixTime, UnixTime),
}

/// Gives the node a bundle; true when a new core took over.
fn take_over(options: &Options, driver: &mut Driver, before: &mut Before, change: Change) -> anyhow::Result<bool> {
    let Change {
        opened,
        keys,
        then,
        other,
        udp,
        time,
    } = change;
    let inside = Inside::of(&opened);
    if inside != before.inside {
        network::adapt(driver.tun.name(), &opened)?;
        before.inside = inside;
    }
    let lockdown = network::lockdown(options, &opened)?.filter(|lockdown| driver.lockdown.as_ref() != Some(lockdown));
    driver.set_own(before.own(&then, &keys, &opened));
    if then == before.fixed {
        relock(options, driver, lockdown)?;
        let time = opened.issued.max(time.0);
        let update = if then.is_served() {
            identity::renewal(opened, time)
        } else {
            identity::update(opened, time)
        };
        driver.node.handle_update(update, now());
        return Ok(false);
    }
    tracing::info!("the bundle changes what a running core cannot: sessions are made anew");
    // The farewells leave by the port of before, which the lockdown to come does not let out.
    driver.shut_down()?;
    relock(options, driver, lockdown)?;
    // Protocol time runs on: only a start reads the wall clock.
    driver.take_over(other, udp, |journal| {
        let config = identity::config(opened, &keys, journal, time.1);
        identity::node(config, journal, now())
    })?;
    before.fixed = then;
    Ok(true)
}

/// Puts another lockdown in force; where that fails, the one of before stays.
fn relock(options: &Options, driver: &mut Driver, lockdown: Option<Lockdown>) -> anyhow::Result<()> {
    let Some(lockdown) = lockdown else { return Ok(()) };
    if let Err(error) = load(Some(&lockdown)) {
        load(driver.lockdown.as_ref())?;
        return Err(error);
    }
    network::remember_lockdown(options, Some(&lockdown))?;
    driver.lockdown = Some(lockdown);
    Ok(())
}

fn start_log(options: &Options) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log).with_context(|| {
        format!(
            "--log {:?} is no filter; try `info` or `coterie_node=debug`",
            options.log
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    match options.log_format {
        LogFormat::Json => builder.json().init(),
        // The journal has its own time stamps, and colours are noise there.
        LogFormat::Text if under_systemd => builder.without_time().with_ansi(false).init(),
        LogFormat::Text => builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
    }
    Ok(())
}

fn wall() -> UnixTime {
    UnixTime(clock::realtime().as_secs())
}
