//! Revoked and isolated: how fast everybody has dropped the member. `COTERIE_MACHINES` says how many machines there are.

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

/// A site whose first member has a live session with each of the others.
fn met(count: usize) -> (Site, Vec<String>) {
    let mut site = Site::new(FILE);
    let others: Vec<String> = (2..=count).map(|n| format!("web-{n}")).collect();
    site.enrolled("web", "web-1");
    site.enrolled_all("web", &others);
    meet(&site, &others);
    (site, others)
}

fn meet(site: &Site, others: &[String]) {
    let first = site.machine("web-1");
    others.iter().for_each(|other| drop(first.ping(other)));
    for other in others {
        wait_for("a session", Duration::from_secs(5), || {
            has_session(site.machine(other)).then_some(())
        })
        .expect("a session");
    }
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
    println!(
        "{what}: {} peers dropped it, median {:?}, p99 {:?}",
        took.len(),
        at(50),
        at(99)
    );
    assert!(at(50) <= bounds.0 && at(99) <= bounds.1, "{what}: {took:?}");
}

#[test]
fn everybody_drops_who_is_revoked_within_seconds() {
    within_namespaces(|| {
        let (mut site, others) = met(machines());
        let began = Instant::now();
        let cut: v1::CutOff = post(&site, "web-1", "revoke");
        let took = dropped(&site, &others, began);
        judge("revoked", &took, (Duration::from_secs(1), Duration::from_secs(5)));
        assert_eq!(cut.acknowledged, cut.connected, "{cut:?}");

        // It holds the old epoch's key still, and starts nothing with who has learnt of the new.
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

/// The server has just come back when it is told to revoke, so that nobody hears of it at once, and is killed again right after it
/// said that it is done.
#[test]
fn who_is_revoked_is_dropped_also_when_the_server_restarts_in_between() {
    within_namespaces(|| {
        let (mut site, others) = met(machines());
        site.kill_server();
        site.up();
        let began = Instant::now();
        let path = "/v1/enclaves/shop/members/web-1/revoke?wait_ms=0";
        let _cut: v1::CutOff = site.owner(async |owner| owner.post(path, &()).await.unwrap());
        site.kill_server();
        site.up();
        let took = dropped(&site, &others, began);
        judge(
            "revoked, and the server restarted",
            &took,
            (Duration::from_secs(1), Duration::from_secs(5)),
        );
    });
}

#[test]
fn who_is_isolated_is_dropped_and_comes_back_when_released() {
    within_namespaces(|| {
        let (site, others) = met(machines());
        let began = Instant::now();
        let _cut: v1::CutOff = post(&site, "web-1", "isolate");
        let took = dropped(&site, &others, began);
        judge("isolated", &took, (Duration::from_secs(1), Duration::from_secs(5)));
        assert!(
            site.machine("web-1")
                .try_ping(&others[0], Duration::from_secs(1))
                .is_none()
        );

        let began = Instant::now();
        let _cut: v1::CutOff = post(&site, "web-1", "release");
        meet(&site, &others);
        println!("released: everybody met again within {:?}", began.elapsed());
    });
}

fn post(site: &Site, member: &str, verb: &str) -> v1::CutOff {
    let path = format!("/v1/enclaves/shop/members/{member}/{verb}");
    site.owner(async |owner| owner.post(&path, &()).await.unwrap())
}
