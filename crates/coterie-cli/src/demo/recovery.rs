//! Starts, kills and restarts: how long until packets flow.

use std::time::{Duration, Instant};

use anyhow::ensure;
use coterie_lab::programs::Ping;

use super::{
    report::Report,
    world::{Machine, World, ms},
};

/// How long it may take at most until packets flow again.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn check(world: &World, report: &mut Report) {
    report.section("Starts and crashes");
    report.check(
        "web-2 stops and starts, without its token, first packet to app-2",
        || first_packet(world),
    );
    report.check("app-1 is killed (SIGKILL) and started again", || crash(world));
}

fn first_packet(world: &World) -> anyhow::Result<String> {
    let (web, app) = (world.machine("web-2")?, world.machine("app-2")?);
    web.coteried.terminate();
    web.coteried.wait(DEADLINE)?;
    let start = Instant::now();
    web.coteried.restart()?;
    web.await_ready()?;
    let ready = start.elapsed();
    let answered = until_answered(world, web, app, start)?;
    Ok(format!(
        "ready after {}, ping answered after {}",
        ms(ready),
        ms(answered)
    ))
}

fn crash(world: &World) -> anyhow::Result<String> {
    let (app, web, db) = (world.machine("app-1")?, world.machine("web-1")?, world.machine("db-1")?);
    let before = app.status()?;
    until_answered(world, web, app, Instant::now())?;
    let start = Instant::now();
    app.coteried.kill()?;
    let dead = start.elapsed();
    app.coteried.restart()?;
    let after = app.await_ready()?;
    let back = start.elapsed() - dead;
    ensure!(
        after.identity == "recovered",
        "its identity came from the {}",
        after.identity
    );
    ensure!(
        (after.name, after.addresses) == (before.name, before.addresses),
        "it is another member"
    );
    ensure!(after.pid != before.pid, "it was not killed");
    let inward = until_answered(world, web, app, start)?;
    let outward = until_answered(world, app, db, start)?;
    Ok(format!(
        "same identity after {}; traffic after {} (web-1 → app-1) and {} (app-1 → db-1)",
        ms(back),
        ms(inward),
        ms(outward)
    ))
}

/// The time since `start` at which a ping was answered.
pub(super) fn until_answered(world: &World, from: &Machine, to: &Machine, start: Instant) -> anyhow::Result<Duration> {
    let answered = from
        .host
        .wait_for(&format!("an answer of {}", to.name()), DEADLINE, || {
            let ping = Ping::new(to.inside[0])
                .timeout(Duration::from_millis(100))
                .canary(world.canary.as_bytes());
            match ping.from(&from.host) {
                Ok(pinged) if pinged.is_success() => Some(Ok(start.elapsed())),
                Err(error) if error.is_skip() => Some(Err(error)),
                Ok(_) | Err(_) => None,
            }
        });
    Ok(answered??)
}
