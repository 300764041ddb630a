//! kill -9 and restart: the same identity without a token, and traffic that goes on.

use std::time::{Duration, Instant};

use coterie_lab::{programs::Ping, within_namespaces};

use crate::site::Site;

#[test]
fn identity_and_traffic_come_back_after_kill_9() {
    within_namespaces(|| {
        let mut site = Site::new(&[("one", &["both"]), ("two", &["both"])]);
        site.start();
        site.machine("one").ping("two");
        // The key file is gone: the identity must come from what was kept.
        std::fs::remove_file(site.machine("two").host.directory().join("keys")).expect("removed");
        let two = site.machine("two").inside;
        for from in ["one", "two"] {
            site.machine("two").daemon().kill().expect("killed");
            let killed = Instant::now();
            site.machine_mut("two").start();
            site.machine("two").wait_ready();
            let identity = killed.elapsed();
            assert_eq!(site.machine("two").status().identity, "recovered");
            let other = if from == "one" { two } else { site.machine("one").inside };
            let pinged = Ping::new(other)
                .count(100)
                .interval(Duration::from_millis(10))
                .timeout(Duration::from_millis(500))
                .from(&site.machine(from).host)
                .expect("ping runs");
            let resumed = killed.elapsed() - Duration::from_millis(10) * pinged.received;
            eprintln!(
                "from {from}: identity after {identity:?}, {} of 100 answered, resumed within {resumed:?}",
                pinged.received
            );
            assert!(identity <= Duration::from_millis(100), "identity took {identity:?}");
            assert!(
                pinged.received > 0 && resumed <= Duration::from_secs(1),
                "traffic took {resumed:?}: {pinged:?}"
            );
        }
    });
}
