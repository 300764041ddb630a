//! Tokens of strangers and friends: one that is spent, and a machine that is in no file, comes in by a door, and is thrown out
//! again.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coterie_lab::programs::Ping;

use super::{
    report::Report,
    stream::Stream,
    world::{self, NEWCOMER, TWIN, World, ms, spread},
};

/// How long something may take that should take milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a member that was revoked may still be heard.
const CUT_OFF: Duration = Duration::from_secs(5);
/// Who shares a community with a web machine.
const PEERS: [&str; 5] = ["web-1", "web-2", "app-1", "app-2", "app-3"];

pub(super) fn check(world: &mut World, report: &mut Report) {
    report.section("Strangers, and a newcomer");
    report.check("a machine with the token of web-1, which is spent", || spent(world));
    report.check("web-3, in no file and without a way to the server, by a door", || {
        door(world)
    });
    report.check("web-3 revoked", || revoke(world));
}

/// Whoever has a copy of a token that was used learns nothing.
fn spent(world: &World) -> anyhow::Result<String> {
    let twin = world.add_host(&TWIN)?;
    let web = world.machine("web-1")?;
    let before = web.status()?;
    let token = web.host.directory().join("token");
    let refused = world::coteried(&twin, &world.programs, &token)
        .args(["--name", "web-1"])
        .run()?;
    ensure!(!refused.is_success(), "it was let in");
    ensure!(
        refused.stderr.contains("refuses this machine"),
        "it says {}",
        refused.stderr.trim()
    );
    let entries = world.site.audit()?;
    let entry = entries.iter().rev().find(|entry| entry.action == "member.refuse");
    let entry = entry.context("the audit log does not say so")?;
    let reason = entry.detail["reason"]
        .as_str()
        .context("the audit log gives no reason")?;
    ensure!(reason.contains("used up"), "the audit log says {reason:?}");
    let after = web.status()?;
    ensure!(
        after.pid == before.pid && after.membership == before.membership && after.addresses == before.addresses,
        "web-1 is not what it was"
    );
    Ok(format!(
        "coteried ends with {} after {}, told only that it is refused; the audit log says why: {reason}; web-1 goes on",
        refused
            .status
            .code()
            .map_or_else(|| "a signal".to_owned(), |code| format!("code {code}")),
        ms(refused.took)
    ))
}

/// A machine of a template, which reaches members and not the server.
fn door(world: &mut World) -> anyhow::Result<String> {
    let host = world.add_host(&NEWCOMER)?;
    let outside = host.ipv4().context("it has no address")?;
    world
        .site
        .config
        .ip(&format!("route add blackhole {outside}/32\n"))
        .context("cannot keep the server from answering it")?;
    let server = world.site.address()?;
    let reached = host.within(|| TcpStream::connect_timeout(&server, Duration::from_millis(200)).is_ok())?;
    ensure!(!reached, "it reaches the server");
    let token = world.site.token("web", None)?;
    ensure!(!token.doors.is_empty(), "the token names no door");
    host.write_file("token", token.text.expose())?;
    let (mac, name) = (host.mac(), host.name().to_owned());
    let (ready, answered) = world.join(host, &NEWCOMER)?;
    let counts = world.neighbour.capture().kinds();
    world
        .locked
        .extend(counts.into_iter().filter(|((source, _), _)| *source == mac));

    let web = world.machine(&name)?;
    for peer in PEERS {
        let peer = world.machine(peer)?;
        let pinged = Ping::new(peer.inside[0])
            .canary(world.canary.as_bytes())
            .from(&web.host)?;
        ensure!(pinged.is_success(), "it does not reach {}", peer.name());
    }
    let stranger = Ping::new(world.machine("db-1")?.inside[0])
        .canary(world.canary.as_bytes())
        .from(&web.host)?;
    ensure!(stranger.is_prohibited(), "db-1: {}", stranger.said.trim());
    let entries = world.site.audit()?;
    let entry = entries
        .iter()
        .rev()
        .find(|entry| entry.action == "member.enrol" && entry.object.ends_with(&name));
    let entry = entry.context("the audit log does not know it")?;
    let through = entry.detail["door"].as_str().context("it came in by no door")?;
    Ok(format!(
        "in by {through}, ready {} after its start, first packet to app-2 answered after {}; it is {} now, reaches its {} peers \
         and not db-1",
        ms(ready),
        ms(answered.context("it sent no packet")?),
        web.inside[0],
        PEERS.len()
    ))
}

/// Its peers drop it, whatever it does.
fn revoke(world: &World) -> anyhow::Result<String> {
    let web = world.machine(NEWCOMER.name)?;
    let started = Instant::now();
    let streams = PEERS.map(|peer| Stream::start(&web.host, world.machine(peer)?, &world.canary));
    let streams = streams.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for stream in &streams {
        stream.answered_after(started, DEADLINE)?;
    }
    let start = Instant::now();
    let revoked = world.site.cut_off("revoke", web.name())?;
    let cut: Vec<Duration> = streams
        .iter()
        .map(|stream| stream.silent_after(start, CUT_OFF + Duration::from_secs(1)))
        .collect::<anyhow::Result<_>>()?;
    let [_, _, most] = spread(&cut).context("nobody talked to it")?;
    ensure!(most <= CUT_OFF, "it was heard for {most:?}");
    ensure!(
        revoked.acknowledged == revoked.connected && revoked.connected == 7,
        "the server says {revoked:?}"
    );
    ensure!(
        revoked.communities_rolled.len() == 2,
        "new keys for {:?}",
        revoked.communities_rolled
    );

    // A start of its own helps it no more than its token.
    web.coteried.kill()?;
    web.coteried.restart()?;
    web.await_ready()?;
    let pinged = Ping::new(world.machine("app-1")?.inside[0])
        .count(3)
        .timeout(Duration::from_millis(300))
        .canary(world.canary.as_bytes())
        .from(&web.host)?;
    ensure!(pinged.received == 0, "app-1 has answered it");
    Ok(format!(
        "cut off from its {} peers {} after the command was typed, acknowledged by {} of {} in {} ms; new keys for {} communities; \
         started again it reaches nobody",
        streams.len(),
        ms(most),
        revoked.acknowledged,
        revoked.connected,
        revoked.milliseconds,
        revoked.communities_rolled.len()
    ))
}
