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
fn a_bundle_that_changes_port_suites_and_roaming_is_taken_over_by_a_reload() {
    within_namespaces(|| {
        let mut site = Site::new(&[("one", &["both"]), ("two", &["both"])]);
        site.start();
        site.machine("one").ping("two");
        site.change("[enclave]\n", "[enclave]\nport = 4848\n");
        for member in ["one", "two"] {
            let template = format!("[template.{member}]\n");
            let changed = format!("{template}roaming = false\nsuites = [\"chacha20-poly1305\"]\n");
            site.change(&template, &changed);
        }
        let pid = site.machine("one").status().pid;
        for member in ["one", "two"] {
            site.machine(member).reload();
            let moved = wait_for("the other port", DEADLINE, || {
                (site.machine(member).status().port == 4848).then_some(())
            });
            assert!(moved.is_ok(), "{}", site.machine(member).daemon().stderr());
        }
        site.machine("one").ping("two");
        site.machine("two").ping("one");
        let status = site.machine("one").status();
        assert_eq!(status.pid, pid, "it is the same process");
        let suite = status.peers[0].session.as_ref().map(|s| s.suite.clone());
        assert_eq!(suite.as_deref(), Some("chacha20-poly1305"));
    });
}

#[test]
fn revocations_that_a_peer_told_survive_a_restart() {
    within_namespaces(|| {
        let mut site = Site::new(&[("one", &["both"]), ("two", &["both"]), ("three", &["both"])]);
        site.start();
        site.machine("three").ping("two");
        site.issuer
            .revoke(&crate::site::name("three"), crate::site::now())
            .expect("a member");
        site.issue_to("one");
        site.machine("one").reload();
        let revision = |member: &str| site.machine(member).status().revision;
        assert!(wait_for("the revocation", DEADLINE, || (revision("one") == 1).then_some(())).is_ok());
        site.machine("one").ping("two");
        assert!(wait_for("the difference", DEADLINE, || (revision("two") == 1).then_some(())).is_ok());
        // Nobody is left to tell it again, and the bundle does not know.
        site.machine("one").daemon().kill().expect("killed");
        site.machine("two").daemon().kill().expect("killed");
        site.machine_mut("two").start();
        site.machine("two").wait_ready();
        assert_eq!(site.machine("two").status().revision, 1);
        let two = site.machine("two").inside;
        let pinged = Ping::new(two)
            .count(3)
            .timeout(Duration::from_millis(500))
            .from(&site.machine("three").host)
            .expect("ping runs");
        assert_eq!(pinged.received, 0, "whoever was refused stays so");
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
