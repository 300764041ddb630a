//! The server is told to stop: whoever is being answered is answered, and nobody is waited for who does not react. And what it
//! tells the operator's machines of itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use coterie_api::v1;
use coterie_lab::{wait_for, within_namespaces};
use rustix::process::Signal;

use crate::{
    FILE,
    site::{DEADLINE, Site},
};

/// Longest that a stop may take: less than what the service manager waits for.
const STOPPED: Duration = Duration::from_secs(15);

/// Three members that follow.
fn followed() -> Site {
    let mut site = Site::new(FILE);
    for member in ["web-1", "web-2", "web-3"] {
        site.enrolled("web", member);
        is_followed_by(&site, member);
    }
    site
}

fn is_followed_by(site: &Site, member: &str) {
    wait_for("it to follow", DEADLINE, || {
        (site.member(member).state == v1::MemberState::Connected).then_some(())
    })
    .unwrap_or_else(|_late| panic!("{member}: {}", site.machine(member).daemon().stderr()));
}

/// A call that waits for a node, and three streams, one of a node that does not react: the call is answered, and the server ends
/// well and in time.
#[test]
fn a_call_under_way_is_answered_before_the_server_stops() {
    within_namespaces(|| {
        let mut site = followed();
        let slow = site.machine("web-2").daemon().clone();
        slow.signal(Signal::STOP);
        let (began, ended) = std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                let path = "/v1/enclaves/shop/members/web-3/revoke";
                let cut: v1::CutOff = site.owner(async |owner| owner.post(path, &()).await.expect("it is answered"));
                cut
            });
            wait_for("the call to be under way", DEADLINE, || {
                let peer = site.machine("web-1").peer("web-3");
                peer.is_none_or(|peer| peer.state == "revoked").then_some(())
            })
            .expect("web-1 hears of it");
            assert!(!call.is_finished(), "it waits for web-2");
            let server = site.server.as_ref().expect("it runs");
            let began = Instant::now();
            server.terminate();
            let cut = call.join().expect("no panic");
            assert!(cut.changed && cut.communities_rolled.len() == 1, "{cut:?}");
            (began, server.wait(STOPPED).expect("it ends in time"))
        });
        let log = site.server.take().expect("it ran").stderr();
        assert!(ended.success(), "{ended}: {log}");
        assert!(began.elapsed() < STOPPED && log.contains("stopped"), "{log}");
        slow.signal(Signal::CONT);
        site.up();
        for member in ["web-1", "web-2"] {
            is_followed_by(&site, member);
        }
        let gone = site.owner(async |owner| owner.get::<v1::Member>("/v1/enclaves/shop/members/web-3").await);
        assert!(gone.is_err(), "what was answered stays so");
    });
}

/// With streams alone, all of nodes that react, it is a matter of a moment.
#[test]
fn a_server_that_is_told_to_stop_ends_streams_at_once() {
    within_namespaces(|| {
        let mut site = followed();
        let server = site.server.take().expect("it runs");
        let began = Instant::now();
        server.terminate();
        let ended = server.wait(STOPPED).expect("it ends in time");
        assert!(ended.success(), "{ended}: {}", server.stderr());
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        site.up();
        for member in ["web-1", "web-2", "web-3"] {
            is_followed_by(&site, member);
        }
    });
}

/// Names of figures that the documentation has, without what a counter's name ends with.
fn documented() -> BTreeSet<&'static str> {
    let text = include_str!("../../../../docs/API.md");
    let named = text.lines().filter_map(|line| line.strip_prefix("| `coterie_server_"));
    named
        .filter_map(|line| line.split('`').next())
        .map(|name| name.strip_suffix("_total").unwrap_or(name))
        .collect()
}

#[test]
fn health_and_metrics_are_told_as_they_are_documented() {
    within_namespaces(|| {
        let site = followed();
        for path in ["/health/live", "/health/ready"] {
            let told = site.told(path);
            assert!(told.starts_with("HTTP/1.1 200"), "{told}");
        }
        assert!(site.told("/v1/whoami").starts_with("HTTP/1.1 404"), "it is no API");
        let of_enclave = |text: &str, name: &str| {
            let lines = text.lines().filter(|line| line.contains("enclave=\"shop\""));
            let line = lines
                .filter_map(|line| line.strip_prefix(name))
                .find(|rest| rest.starts_with('{'))?;
            line.rsplit(' ').next()?.parse::<u64>().ok()
        };
        let text = wait_for("three members", DEADLINE, || {
            let text = site.told("/metrics");
            let both = ["coterie_server_members", "coterie_server_connected"].map(|name| of_enclave(&text, name));
            (both == [Some(3); 2]).then_some(text)
        })
        .unwrap_or_else(|_late| panic!("{}", site.told("/metrics")));
        assert!(
            of_enclave(&text, "coterie_server_revision").is_some_and(|revision| revision >= 3),
            "{text}"
        );
        let types = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE coterie_server_"));
        let told: BTreeSet<&str> = types.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(told, documented(), "docs/API.md names each figure, and no other");
        let deeds = text
            .lines()
            .find_map(|line| line.strip_prefix("coterie_server_deeds_total "));
        assert!(
            deeds.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > 3),
            "{text}"
        );
    });
}
