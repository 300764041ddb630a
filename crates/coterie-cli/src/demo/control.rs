//! What the server does to members that run: new keys, one cut off and let in again, and what becomes of all when the server
//! itself is gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use coterie_lab::programs::Ping;

use super::{
    report::Report,
    sight,
    stream::Stream,
    world::{World, ms, spread},
};

/// How long a change may take to be known everywhere.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a member that was cut off may still be heard.
const CUT_OFF: Duration = Duration::from_secs(5);

/// Pairs between which datagrams flow while something happens.
const PAIRS: [(&str, &str); 4] = [
    ("web-1", "app-1"),
    ("web-2", "app-2"),
    ("app-1", "db-1"),
    ("app-3", "db-2"),
];

/// Who holds web-app.
const HOLDERS: [&str; 5] = ["web-1", "web-2", "app-1", "app-2", "app-3"];

/// Who talks to app-2, in all the communities that it has.
const FRIENDS: [&str; 6] = ["web-1", "web-2", "app-1", "app-3", "db-1", "db-2"];

pub(super) fn check(world: &World, report: &mut Report) {
    report.section("Keys replaced, a member cut off, the server gone");
    report.check("new key for web-app under load", || replace_key(world));
    report.check("app-2 isolated, and released", || isolate(world));
    // They flow from before its end until all follow it again.
    let mut flowing = Vec::new();
    report.check("the server is killed (SIGKILL)", || away(world, &mut flowing));
    report.check("the server is started again", || back(world, flowing));
}

/// `coterie coi rotate-key --removal`: no packet is lost.
fn replace_key(world: &World) -> anyhow::Result<String> {
    let epoch = || -> anyhow::Result<u64> {
        let communities = world.site.communities()?;
        let found = communities
            .iter()
            .find(|community| community.name.as_str() == "web-app");
        Ok(found.context("there is no web-app")?.epoch)
    };
    let streams = streams(world, &PAIRS)?;
    let before = epoch()?;
    let start = Instant::now();
    world.site.replace_key("web-app")?;
    let done = start.elapsed();
    let after = epoch()?;
    ensure!(after > before, "epoch {after} follows {before}");
    let mut times = Vec::new();
    for name in HOLDERS {
        let machine = world.machine(name)?;
        let known = machine.host.wait_for("the new epoch", DEADLINE, || {
            let status = machine.status().ok()?;
            let community = status.communities.iter().find(|c| c.name.as_str() == "web-app")?;
            (community.epoch == Some(after)).then(|| start.elapsed())
        });
        times.push(known.with_context(|| machine.said())?);
    }
    let [first, _, last] = spread(&times).context("nobody holds it")?;
    let (sent, _) = lossless(streams)?;
    Ok(format!(
        "epoch {before} → {after} after {}, in use on its {} holders after {} to {}; of {sent} datagrams and their answers 0 lost",
        ms(done),
        times.len(),
        ms(first),
        ms(last)
    ))
}

/// `coterie vm isolate` and `release`.
fn isolate(world: &World) -> anyhow::Result<String> {
    let streams = streams(world, &FRIENDS.map(|friend| (friend, "app-2")))?;
    let start = Instant::now();
    let isolated = world.site.cut_off("isolate", "app-2")?;
    let cut: Vec<Duration> = streams
        .iter()
        .map(|stream| stream.silent_after(start, CUT_OFF + Duration::from_secs(1)))
        .collect::<anyhow::Result<_>>()?;
    let [_, _, cut] = spread(&cut).context("nobody talked to it")?;
    ensure!(cut <= CUT_OFF, "it was heard for {cut:?}");
    ensure!(
        isolated.changed && isolated.acknowledged == isolated.connected && isolated.connected == 6,
        "the server says {isolated:?}"
    );
    for friend in FRIENDS {
        world.await_revoked(friend, "app-2", DEADLINE)?;
    }

    let start = Instant::now();
    let released = world.site.cut_off("release", "app-2")?;
    ensure!(released.changed, "the server says {released:?}");
    let back: Vec<Duration> = streams
        .iter()
        .map(|stream| stream.answered_after(start, DEADLINE))
        .collect::<anyhow::Result<_>>()?;
    let [_, _, back] = spread(&back).context("nobody talked to it")?;
    Ok(format!(
        "cut off from its {} peers {} after the command was typed, acknowledged by {} of {} in {} ms; reached again {} after release",
        streams.len(),
        ms(cut),
        isolated.acknowledged,
        isolated.connected,
        isolated.milliseconds,
        ms(back)
    ))
}

/// Members go on without the server, and meet others.
fn away(world: &World, flowing: &mut Vec<Stream>) -> anyhow::Result<String> {
    // Not between those of whom one is to die.
    let pairs: Vec<(&str, &str)> = PAIRS.into_iter().filter(|(_, to)| *to != "db-2").collect();
    *flowing = streams(world, &pairs)?;
    world.site.server.kill()?;
    let noticed = Instant::now();
    for machine in &world.machines {
        let away = machine.host.wait_for("that the server is gone", DEADLINE, || {
            let server = machine.status().ok()?.server?;
            (server.state != "following").then_some(())
        });
        away.with_context(|| machine.said())?;
    }
    let noticed = noticed.elapsed();

    let (one, other) = (world.machine("app-1")?, world.machine("app-3")?);
    let knows = one
        .status()?
        .peers
        .into_iter()
        .find(|peer| peer.name.as_str() == "app-3");
    ensure!(
        knows.is_none_or(|peer| peer.session.is_none()),
        "the two know each other already"
    );
    let start = Instant::now();
    let met = Stream::start(&one.host, other, &world.canary)?.answered_after(start, DEADLINE)?;
    let pinged = Ping::new(other.inside[1])
        .count(25)
        .interval(sight::INTERVAL)
        .canary(world.canary.as_bytes())
        .from(&one.host)?;
    ensure!(
        pinged.is_success(),
        "ping: {} of {} answered",
        pinged.received,
        pinged.sent
    );

    let (app, db) = (world.machine("app-3")?, world.machine("db-2")?);
    let start = Instant::now();
    db.coteried.kill()?;
    db.coteried.restart()?;
    let again = db.await_ready()?;
    ensure!(
        again.identity == "recovered",
        "the identity of db-2 came from {}",
        again.identity
    );
    let stream = Stream::start(&app.host, db, &world.canary)?;
    let restarted = stream.answered_after(start, DEADLINE).with_context(|| db.said())?;
    Ok(format!(
        "all {} know it after {}; app-1 meets app-3, with whom it never spoke, in {}, ping {} of {}; db-2, killed and started \
         meanwhile, answers app-3 after {}",
        world.machines.len(),
        ms(noticed),
        ms(met),
        pinged.received,
        pinged.sent,
        ms(restarted)
    ))
}

/// The server comes back, with what it had, and all follow it again.
fn back(world: &World, flowing: Vec<Stream>) -> anyhow::Result<String> {
    ensure!(!flowing.is_empty(), "nothing flowed while it was away");
    let start = Instant::now();
    world.site.server.restart()?;
    world.site.await_listening()?;
    let ready = start.elapsed();
    let names: Vec<&str> = world.machines.iter().map(|machine| machine.name()).collect();
    world.await_following(&names)?;
    let follow = start.elapsed();
    let members = world.site.members()?;
    let connected = members.iter().filter(|member| member.connected_since.is_some()).count();
    ensure!(
        connected == names.len(),
        "the server says {connected} of {}",
        names.len()
    );
    for machine in &world.machines {
        let alarms = machine.status()?.alarms;
        ensure!(alarms.is_empty(), "{} raises alarms: {alarms:?}", machine.name());
    }
    let applied = world
        .site
        .audit()?
        .iter()
        .filter(|entry| entry.action == "enclave.apply")
        .count();
    let (sent, gap) = lossless(flowing)?;
    Ok(format!(
        "ready after {} with all {} members and {applied} changes of the file in its log; {connected} of {} follow it again after \
         {}, without an alarm; of {sent} datagrams and their answers since before its end 0 lost, the longest pause {}",
        ms(ready),
        members.len(),
        names.len(),
        ms(follow),
        ms(gap)
    ))
}

/// Streams that flow.
fn streams(world: &World, pairs: &[(&str, &str)]) -> anyhow::Result<Vec<Stream>> {
    let start = |(from, to): &(&str, &str)| -> anyhow::Result<Stream> {
        Stream::start(&world.machine(from)?.host, world.machine(to)?, &world.canary)
    };
    let started = Instant::now();
    let streams: Vec<Stream> = pairs.iter().map(start).collect::<anyhow::Result<_>>()?;
    for stream in &streams {
        stream.answered_after(started, DEADLINE)?;
    }
    Ok(streams)
}

/// Ends streams of which nothing may be lost: how many datagrams, and the longest pause between two answers.
fn lossless(streams: Vec<Stream>) -> anyhow::Result<(u64, Duration)> {
    let (mut sent, mut lost, mut gap) = (0, 0, Duration::ZERO);
    for flow in streams.into_iter().map(Stream::end) {
        sent += flow.sent;
        lost += flow.lost();
        gap = gap.max(flow.gap);
    }
    ensure!(lost == 0, "{lost} of {sent} datagrams were lost");
    Ok((sent, gap))
}
