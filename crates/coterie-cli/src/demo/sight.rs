//! What the neighbour has seen, and the proof that he would see.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use coterie_lab::programs::Ping;
use coterie_lab::{Host, Neighbour, Network};

/// Said in the clear, before anything is locked, so that it is known that clear text would be seen.
pub(super) const CONTROL: &str = "control-canary";

/// From one ping to the next. ping waits no longer than that for the last answer, and this machine is busy.
pub(super) const INTERVAL: Duration = Duration::from_millis(40);

/// The time of captures.
pub(super) fn now() -> anyhow::Result<Duration> {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")
}

/// Frames between two machines since then: by hardware address, by outside address, and questions for either's address.
pub(super) fn between(neighbour: &Neighbour, one: &Host, other: &Host, since: Duration) -> u64 {
    let frames = neighbour.capture().frames();
    let frames = frames
        .iter()
        .filter(|frame| frame.time >= since)
        .filter_map(|frame| frame.parse());
    let by_hardware = |frame: &coterie_lab::Frame<'_>| {
        let pair = (frame.source, frame.destination);
        pair == (one.mac(), other.mac()) || pair == (other.mac(), one.mac())
    };
    let (ones, others) = (one.addresses(), other.addresses());
    number(
        frames
            .filter(|frame| by_hardware(frame) || concerns(frame.network, &ones, &others))
            .count(),
    )
}

/// Packets and questions from one of some addresses to one of others, or back.
pub(super) fn concerning(neighbour: &Neighbour, ones: &[IpAddr], others: &[IpAddr], since: Duration) -> u64 {
    let frames = neighbour.capture().frames();
    let frames = frames
        .iter()
        .filter(|frame| frame.time >= since)
        .filter_map(|frame| frame.parse());
    number(frames.filter(|frame| concerns(frame.network, ones, others)).count())
}

fn concerns(network: Network, ones: &[IpAddr], others: &[IpAddr]) -> bool {
    let (from, to) = match network {
        Network::Arp { sender, target, .. } => (sender.into(), target.into()),
        Network::Ip {
            source, destination, ..
        } => (source, destination),
        Network::Other => return false,
    };
    (ones.contains(&from) && others.contains(&to)) || (others.contains(&from) && ones.contains(&to))
}

/// Two machines speak in the clear, and the neighbour sees all of it.
pub(super) fn control(neighbour: &Neighbour, one: &Host, other: &Host) -> anyhow::Result<String> {
    let since = now()?;
    for address in [other.ipv4(), other.ipv6()].into_iter().flatten() {
        let pinged = Ping::new(address)
            .count(5)
            .interval(INTERVAL)
            .canary(CONTROL)
            .from(one)?;
        ensure!(pinged.is_success(), "ping {address} got no answer");
    }
    let frames = between(neighbour, one, other, since);
    let sightings = neighbour.capture().sightings(CONTROL);
    ensure!(
        frames >= 20 && sightings >= 20,
        "he saw {frames} frames and the canary {sightings} times, not 20"
    );
    Ok(format!(
        "ping in the clear: he sees {frames} frames between the two, and their canary {sightings} times"
    ))
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
