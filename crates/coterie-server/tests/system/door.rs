//! A machine that reaches nothing but a door enrols through it; the door cannot enrol in its place.

use coterie_lab::within_namespaces;

use crate::{FILE, site::Site};

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
        // A spent token opens the door to nobody.
        let again = site.bare("web-1b");
        site.machines[again].start(&token);
        let ended = site.machines[again].daemon().wait(std::time::Duration::from_secs(5));
        assert!(
            ended.is_err() || ended.is_ok_and(|status| !status.success()),
            "it is no member"
        );
    });
}
