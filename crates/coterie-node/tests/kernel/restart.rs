//! kill -9 and restart: the same identity without a token, and traffic that goes on.

use std::time::{Duration, Instant};

use coterie_lab::{programs::Ping, wait_for, within_namespaces};

use crate::site::{DEADLINE, Site};

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

#[test]
fn a_newer_bundle_is_taken_over_when_the_key_file_is_gone() {
    within_namespaces(|| {
        let mut site = Site::new(&[("one", &["both"]), ("two", &["both"])]);
        site.start();
        site.machine("one").ping("two");
        let before = site.machine("one").status().membership_ends;
        site.roll("both", Duration::ZERO);
        site.issue();
        std::fs::remove_file(site.machine("one").host.directory().join("keys")).expect("removed");
        site.machine("one").reload();
        let taken = wait_for("the new epoch", DEADLINE, || {
            let status = site.machine("one").status();
            (status.communities[0].epoch == Some(2) && status.membership_ends >= before).then_some(())
        });
        assert!(taken.is_ok(), "{}", site.machine("one").daemon().stderr());
    });
}

#[test]
fn a_machine_that_was_dark_stays_dark_when_its_bundle_is_of_no_use() {
    within_namespaces(|| {
        let mut site = Site::new(&[("one", &["both"]), ("two", &["other"])]);
        site.machine_mut("one").start();
        site.machine("one").wait_ready();
        site.machine("one").daemon().kill().expect("killed");
        let one = site.machine("one");
        // What a boot does: nothing of the lockdown is left.
        one.host
            .ip("rule flush\nrule add pref 32766 lookup main\nrule add pref 32767 lookup default")
            .expect("flushed");
        one.host
            .run("nft", &["flush", "ruleset"])
            .expect("nft runs")
            .check()
            .expect("flushed");
        let outside = site.machine("two").host.ipv4().expect("an address");
        let clear = || {
            Ping::new(outside)
                .count(2)
                .timeout(Duration::from_millis(500))
                .from(&one.host)
                .expect("ping runs")
        };
        assert!(clear().is_success(), "in clear text, as after a boot");
        one.host.write_file("bundle", "no bundle").expect("a file");
        let ended = one.command().deadline(DEADLINE).run().expect("coteried runs");
        assert!(!ended.is_success(), "{ended:?}");
        assert!(
            ended.stderr.contains("bundle"),
            "it says what is wrong: {}",
            ended.stderr
        );
        assert_eq!(clear().received, 0, "dark");
    });
}
