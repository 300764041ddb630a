//! The server is away: members go on, meet each other for the first time, and close when their leases end.
//! `COTERIE_AWAY` says for how many seconds it is away.

use std::time::{Duration, Instant};

use coterie_lab::{wait_for, within_namespaces};

use crate::{FILE, flow::Flow, site::Site};

/// All allowed pairs meet while the server is away, no forbidden pair does; it is back, and everybody follows again.
#[test]
fn members_meet_for_the_first_time_while_the_server_is_away() {
    within_namespaces(|| {
        let away = Duration::from_secs(std::env::var("COTERIE_AWAY").map_or(5, |n| n.parse().expect("a number")));
        let mut site = Site::new(&FILE.replace("lease = \"10m\"", "lease = \"1h\""));
        for (template, member) in [
            ("web", "web-1"),
            ("web", "web-2"),
            ("app", "app-1"),
            ("db", "db-1"),
            ("db", "db-2"),
        ] {
            site.enrolled(template, member);
        }
        // Everybody knows of everybody it may know.
        for (member, peers) in [("web-1", 2), ("web-2", 2), ("app-1", 4), ("db-1", 2), ("db-2", 2)] {
            wait_for("views", Duration::from_secs(10), || {
                (site.machine(member).status().peers.len() == peers).then_some(())
            })
            .unwrap_or_else(|_late| panic!("{member}: {:?}", site.machine(member).status().peers));
        }
        site.machine("web-1").ping("web-2");
        let flow = Flow::start(site.machine("web-1"), site.machine("web-2"), 1000);
        let began = Instant::now();
        site.kill_server();
        for (from, to) in [
            ("web-1", "app-1"),
            ("app-1", "web-2"),
            ("db-1", "app-1"),
            ("db-2", "db-1"),
            ("app-1", "db-2"),
        ] {
            site.machine(from).ping(to);
        }
        for (from, to) in [("web-1", "db-1"), ("db-2", "web-2")] {
            let pong = site.machine(from).try_ping(to, Duration::from_millis(500));
            assert!(pong.is_none(), "{from} reaches {to}");
        }
        while began.elapsed() < away {
            std::thread::sleep(Duration::from_millis(100));
        }
        for (from, to) in [("web-1", "app-1"), ("db-2", "app-1")] {
            site.machine(from).ping(to);
        }
        site.up();
        for member in ["web-1", "web-2", "app-1", "db-1", "db-2"] {
            wait_for("it to follow again", Duration::from_secs(30), || {
                (site.member(member).state == coterie_api::v1::MemberState::Connected).then_some(())
            })
            .unwrap_or_else(|_late| panic!("{member}: {}", site.machine(member).daemon().stderr()));
        }
        let (sent, lost) = flow.end();
        assert_eq!(lost, 0, "of {sent}");
    });
}

/// Past the end of the lease (the shortest: a minute) nothing goes any more, and status says why.
#[test]
fn past_the_end_of_its_lease_a_member_is_closed_and_says_so() {
    within_namespaces(|| {
        let mut site = Site::new(&FILE.replace("lease = \"10m\"", "lease = \"1m\""));
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2");
        site.machine("web-1").ping("web-2");
        site.kill_server();
        let ends = site.machine("web-1").status().membership_ends;
        wait_for("the lease to end", Duration::from_secs(90), || {
            (site.machine("web-1").status().protocol_time > ends).then_some(())
        })
        .expect("time goes on");
        let closed = wait_for("it to be closed", Duration::from_secs(15), || {
            site.machine("web-1")
                .try_ping("web-2", Duration::from_millis(300))
                .is_none()
                .then_some(())
        });
        closed.expect("it is closed");
        let status = site.machine("web-1").status();
        let said = serde_json::to_string(&status).expect("JSON");
        assert!(said.contains("ended"), "{said}");
        // It is back, and so are they.
        site.up();
        site.machine("web-1").ping("web-2");
    });
}
