//! Revoked and isolated, and deaf to it: how fast everybody has dropped the member. `COTERIE_MACHINES` says how many machines there are.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that measures says what"
)]

use std::time::{Duration, Instant};

use coterie_api::v1;
use coterie_lab::{wait_for, within_namespaces};

use crate::{
    FILE,
    site::{Machine, Site},
};

fn machines() -> usize {
    std::env::var("COTERIE_MACHINES").map_or(24, |n| n.parse().expect("a number"))
}

/// A site whose first member has a live session with each of the others; all of them follow the server.
fn met(count: usize) -> (Site, Vec<String>) {
    let mut site = Site::new(FILE);
    let others: Vec<String> = (2..=count).map(|n| format!("web-{n}")).collect();
    site.enrolled("web", "web-1");
    site.enrolled_all("web", &others);
    meet(&site, &others, Instant::now());
    wait_for("everybody to follow", Duration::from_secs(20), || {
        let all: v1::List<v1::Member> = site.owner(async |owner| owner.get("/v1/enclaves/shop/members").await.unwrap());
        let follow = |member: &v1::Member| member.state == v1::MemberState::Connected;
        (all.items.iter().filter(|member| follow(member)).count() == count).then_some(())
    })
    .expect("everybody follows");
    (site, others)
}

/// How long after `began` the first had a session with each of the others.
fn meet(site: &Site, others: &[String], began: Instant) -> Vec<Duration> {
    let first = site.machine("web-1");
    let met = |other: &String| {
        first.ping(other);
        wait_for("a session", Duration::from_secs(5), || {
            has_session(site.machine(other)).then_some(())
        })
        .expect("a session");
        began.elapsed()
    };
    let mut took: Vec<Duration> = others.iter().map(met).collect();
    took.sort_unstable();
    took
}

fn has_session(machine: &Machine) -> bool {
    machine.peer("web-1").is_some_and(|peer| peer.session.is_some())
}

/// How long after `began` each of the others had no session with the first any more.
fn dropped(site: &Site, others: &[String], began: Instant) -> Vec<Duration> {
    let mut left: Vec<&Machine> = others.iter().map(|other| site.machine(other)).collect();
    let mut took = Vec::new();
    while !left.is_empty() {
        left.retain(|machine| {
            let gone = !has_session(machine);
            if gone {
                took.push(began.elapsed());
            }
            !gone
        });
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{} still talk to it",
            left.len()
        );
    }
    took.sort_unstable();
    took
}

fn judge(what: &str, took: &[Duration], bounds: (Duration, Duration)) {
    let at = |share: usize| took[(took.len() - 1) * share / 100];
    println!("{what}: {} peers, median {:?}, p99 {:?}", took.len(), at(50), at(99));
    assert!(at(50) <= bounds.0 && at(99) <= bounds.1, "{what}: {took:?}");
}

/// The median within a second, and all but one in a hundred within five.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

#[test]
fn everybody_drops_who_is_revoked_within_seconds() {
    within_namespaces(|| {
        let (mut site, others) = met(machines());
        // It hears of nothing itself, so that it is others who end its sessions.
        site.way("web-1", "add");
        let began = Instant::now();
        let cut: v1::CutOff = post(&site, "web-1", "revoke");
        let took = dropped(&site, &others, began);
        judge("revoked", &took, BOUNDS);
        everybody_heard(&cut, &others);

        // Whom the server refuses all refuse by its key, whatever epochs it knows; what an epoch that is over is good for is tried
        // where keys are rotated.
        let first = site.machine("web-1");
        for other in &others[..3] {
            assert!(
                first.try_ping(other, Duration::from_secs(1)).is_none(),
                "{other} answers"
            );
        }
        site.machine_mut("web-1")
            .daemon
            .take()
            .expect("it runs")
            .kill()
            .expect("killed");
        site.machine_mut("web-1").start_again();
        let stays_out = wait_for("the revoked to be let in", Duration::from_secs(3), || {
            coterie_api::Client::connect(&site.machine("web-1").host.directory().join("coteried.sock")).ok()?;
            site.machine("web-1").try_ping(&others[0], Duration::from_secs(1))
        });
        assert!(stays_out.is_err());
    });
}

fn everybody_heard(cut: &v1::CutOff, others: &[String]) {
    let all = u64::try_from(others.len()).expect("a count");
    assert_eq!((cut.acknowledged, cut.connected), (all, all), "{cut:?}");
}

#[test]
fn who_is_revoked_is_dropped_also_when_the_server_restarts_in_between() {
    within_namespaces(|| dropped_over_a_restart("revoke"));
}

#[test]
fn who_is_isolated_is_dropped_also_when_the_server_restarts_in_between() {
    within_namespaces(|| dropped_over_a_restart("isolate"));
}

/// The server has just come back when it is told to cut the member off, some cannot hear of it, and it is killed right after it said
/// that it is done: these learn it from the one that comes up after.
fn dropped_over_a_restart(verb: &str) {
    let (mut site, others) = met(machines());
    let deaf = &others[..3];
    // They notice that the server is gone, and do not find it again.
    let no_way_out = |site: &Site, verb: &str| {
        for other in deaf {
            let route = format!("route {verb} blackhole 192.0.2.1/32");
            site.machine(other).host.ip(&route).unwrap();
        }
    };
    site.way("web-1", "add");
    site.kill_server();
    no_way_out(&site, "add");
    site.up();
    let began = Instant::now();
    let path = format!("/v1/enclaves/shop/members/web-1/{verb}?wait_ms=0");
    let cut: v1::CutOff = site.owner(async |owner| owner.post(&path, &()).await.unwrap());
    assert!(cut.changed, "{cut:?}");
    site.kill_server();
    let is_uninformed = |other: &String| has_session(site.machine(other));
    assert!(deaf.iter().all(is_uninformed), "nobody has told them");
    no_way_out(&site, "del");
    site.up();
    let took = dropped(&site, &others, began);
    judge(&format!("{verb}, and the server restarted"), &took, BOUNDS);
    assert!(
        site.machine("web-1")
            .try_ping(&others[0], Duration::from_secs(1))
            .is_none()
    );
}

#[test]
fn who_is_isolated_is_dropped_and_comes_back_when_released() {
    within_namespaces(|| {
        let (site, others) = met(machines());
        site.way("web-1", "add");
        let began = Instant::now();
        let cut: v1::CutOff = post(&site, "web-1", "isolate");
        let took = dropped(&site, &others, began);
        judge("isolated", &took, BOUNDS);
        everybody_heard(&cut, &others);
        assert!(
            site.machine("web-1")
                .try_ping(&others[0], Duration::from_secs(1))
                .is_none()
        );
        site.way("web-1", "del");
        wait_for("it to hear of it", Duration::from_secs(20), || {
            let said = site.machine("web-1").status().membership;
            said.contains("isolated").then_some(())
        })
        .expect("it is told");

        let began = Instant::now();
        let cut: v1::CutOff = post(&site, "web-1", "release");
        everybody_heard(&cut, &others);
        let took = meet(&site, &others, began);
        judge("released, and met again", &took, BOUNDS);
    });
}

fn post(site: &Site, member: &str, verb: &str) -> v1::CutOff {
    let path = format!("/v1/enclaves/shop/members/{member}/{verb}");
    site.owner(async |owner| owner.post(&path, &()).await.unwrap())
}
