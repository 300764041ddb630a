//! Start and stop, in order. Lockdown is loaded before the outside port opens and stays when the daemon dies; only a stop
//! that a person asked for (`coterie down`, SIGTERM outside of systemd's restart) leaves it to the template.

use std::os::unix::fs::DirBuilderExt;

use anyhow::Context;
use coterie_api::{Answer, Failure, Reply};
use coterie_io::{
    clock,
    lockdown::Lockdown,
    memory::{self, Sealed},
};
use coterie_model::UnixTime;
use coterie_proto::Node;
use sd_notify::NotifyState;

use crate::{
    driver::{Driver, Left, Parts, now},
    enrol,
    entropy::SystemEntropy,
    identity::{self, Fixed, Identity, STORE_NAME},
    journal::Journal,
    metrics, network,
    options::{LogFormat, Options},
    requests::{Requests, serve, watch_signals},
    service::notify,
};

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What went wrong, where, and what to do; the caller prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    start_log(options)?;
    memory::forbid_dumps().context("cannot keep this process out of core dumps")?;
    if let Err(error) = memory::lock_process_memory() {
        tracing::debug!(%error, "memory is not locked; keys may be swapped out");
    }
    let mut kept = None;
    for (name, descriptor) in
        memory::take_passed_descriptors().context("cannot take what the service manager passed")?
    {
        if name == STORE_NAME {
            kept = Some(Sealed::from_descriptor(descriptor)?);
        }
    }
    make_state_directory(options)?;
    // A machine that was dark stays dark, also when what follows fails: an ended membership does not open it.
    let mut last = network::last_lockdown(options)?;
    load(last.as_ref())?;
    let identity = match Identity::find(options, kept.as_ref())? {
        Some(identity) => identity,
        None => match enrol::token(options)? {
            Some(token) => {
                if last.is_none() {
                    last = network::lockdown_before(options)?;
                    load(last.as_ref())?;
                }
                enrol::enrol(options, &token, wall())?
            }
            None => Identity::load(options, kept.as_ref())?,
        },
    };
    let keys = identity.parse_keys(options)?;
    let mut journal = Journal::open(&options.state, *keys.static_key().public())
        .with_context(|| format!("cannot open the journal in {}", options.state.display()))?;
    let opened = identity.open(options, wall(), journal.serial())?;
    journal.accept_serial(opened.serial)?;
    let kept = identity.keep(options)?;

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
    let fixed = Fixed::of(options, &opened, &keys);
    let config = identity::config(opened, &keys, &journal, wall());
    let node = Node::new(config, Box::new(SystemEntropy), now());
    let parts = Parts {
        node,
        inside,
        udp,
        journal,
        lockdown,
        port,
        identity: identity.origin.name(),
        requests,
    };
    // The files' bytes are wiped here: from now on the core alone holds what it needs of them.
    drop((identity, keys));
    let mut driver = Driver::new(parts)?;
    serve(&options.socket, asker.clone())?;
    if let Some(address) = options.metrics {
        metrics::serve(address, asker)?;
    }
    tracing::info!(interface = driver.tun.name(), port, identity = driver.identity, "ready");
    notify(&[NotifyState::Ready]);
    attend(options, &mut driver, (kept, fixed))?;
    drop(driver);
    // Port and interface are free now. Who asks from here on is told that nobody is there, and not that nobody answers.
    if let Err(error) = std::fs::remove_file(&options.socket) {
        tracing::debug!(%error, "the control socket was gone already");
    }
    tracing::info!("stopped");
    Ok(())
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

/// What a reload compares with: the identity that was kept, and what it fixed.
type Before = (Option<Sealed>, Fixed);

fn attend(options: &Options, driver: &mut Driver, mut before: Before) -> anyhow::Result<()> {
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
            Left::Stop => {
                notify(&[NotifyState::Stopping]);
                return driver.shut_down();
            }
        }
    }
}

/// Reads the bundle again. What a running core can learn it takes over without a break; else a new core takes over.
fn reload(options: &Options, driver: &mut Driver, (kept, fixed): &mut Before) -> anyhow::Result<()> {
    let identity = Identity::load(options, kept.as_ref())?;
    let keys = identity.parse_keys(options)?;
    let own = *keys.static_key().public();
    // Everything that can fail comes before anything changes for the node.
    let mut other = if driver.node.static_key() == &own {
        None
    } else {
        Some(Journal::open(&options.state, own)?)
    };
    let floor = other.as_ref().unwrap_or(&driver.journal).serial();
    let opened = identity.open(options, wall(), floor)?;
    let then = Fixed::of(options, &opened, &keys);
    let udp = if then.outside == fixed.outside {
        None
    } else {
        Some(network::open_outside(options, &opened)?)
    };
    other
        .as_mut()
        .unwrap_or(&mut driver.journal)
        .accept_serial(opened.serial)?;
    *kept = identity.keep(options)?;
    network::adapt(driver.tun.name(), &opened)?;
    let lockdown = network::lockdown(options, &opened)?;
    if then == *fixed {
        relock(options, driver, lockdown)?;
        let time = opened.issued.max(wall());
        driver.node.handle_update(identity::update(opened, time), now());
        return Ok(());
    }
    tracing::info!("the bundle changes what a running core cannot: sessions are made anew");
    // Protocol time runs on: only a start reads the wall clock.
    let time = driver.node.time(now());
    // The farewells leave by the port of before, which the lockdown to come does not let out.
    driver.shut_down()?;
    relock(options, driver, lockdown)?;
    driver.take_over(other, udp, |journal| {
        let config = identity::config(opened, &keys, journal, time);
        Node::new(config, Box::new(SystemEntropy), now())
    })?;
    *fixed = then;
    Ok(())
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

fn make_state_directory(options: &Options) -> anyhow::Result<()> {
    if options.state.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&options.state)
        .with_context(|| format!("cannot make {}", options.state.display()))
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
