//! A machine that reaches nothing but a door enrols through it; the door cannot enrol in its place.

use std::time::Duration;

use coterie_api::v1;
use coterie_lab::within_namespaces;
use coterie_model::Name;

use crate::{FILE, site::Site};

const DEADLINE: Duration = Duration::from_secs(20);

/// The server is closed to the new machine by a filter: it comes in by the door alone, as far as the enrolment endpoint.
#[test]
fn a_machine_that_reaches_only_the_door_enrols_through_it() {
    within_namespaces(|| {
        let mut site = Site::new(FILE);
        site.enrolled("gate", "gate-1");
        let place = site.bare("web-1");
        let token = site.token("web", "web-1");
        let machine = &mut site.machines[place];
        machine
            .host
            .ip("route add blackhole 192.0.2.1/32")
            .expect("no way to the server");
        machine.start(&token);
        machine.wait_ready();
        let member = site.member("web-1");
        assert!(member.member_id.is_some());
        site.machine("web-1").ping("gate-1");
        assert!(
            site.machine("web-1").daemon().stderr().contains("door"),
            "{}",
            site.machine("web-1").daemon().stderr()
        );
        // Who shows the token again is let as far as the server, which refuses, and tells of it.
        let again = site.bare("other");
        let other = &mut site.machines[again];
        other.name = Name::new("web-1").expect("a name");
        other
            .host
            .ip("route add blackhole 192.0.2.1/32")
            .expect("no way to the server");
        other.start(&token);
        let ended = other.daemon().wait(DEADLINE).expect("it ends");
        assert!(!ended.success(), "it is no member");
        let said = other.daemon().stderr();
        assert!(said.contains("refuses this machine"), "{said}");
        let page: v1::AuditPage =
            site.owner(async |owner| owner.get("/v1/audit?after=0&limit=1000").await.expect("the audit log"));
        let refusal = page.entries.iter().find(|entry| entry.action == "member.refuse");
        let detail = &refusal.expect("it tells of it").detail;
        assert_eq!(
            (detail["reason"].as_str(), detail["door"].as_str()),
            (Some("the token is used up"), Some("gate-1"))
        );
    });
}
