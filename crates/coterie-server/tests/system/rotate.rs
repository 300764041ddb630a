//! Keys and roots change under load, and nobody notices.

#![expect(
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that measures says what"
)]

use std::time::Duration;

use coterie_api::v1;
use coterie_lab::{wait_for, within_namespaces};

use crate::{FILE, flow::Flow, site::Site};

/// Datagrams a second of the flow.
const RATE: u32 = 2_000;
const ROTATIONS: u64 = 10;

/// Ten rotations by removal (an epoch that was never handed out, the old one gone after its grace) lose no packet; nor do planned
/// ones, which take longer.
#[test]
fn ten_rotations_under_load_lose_no_packet() {
    within_namespaces(|| {
        let mut site = Site::new(FILE);
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2");
        site.machine("web-1").ping("web-2");
        let flow = Flow::start(site.machine("web-1"), site.machine("web-2"), RATE);
        for rotation in 1..=ROTATIONS {
            let body = v1::RollRequest {
                kind: v1::RollKind::Removal,
            };
            let path = "/v1/enclaves/shop/communities/web/rotate-key";
            let rolled: v1::RolledKey = site.owner(async |owner| owner.post(path, &body).await.unwrap());
            for member in ["web-1", "web-2"] {
                wait_for("the new epoch", Duration::from_secs(10), || {
                    let status = site.machine(member).status();
                    let epoch = status.communities.iter().find_map(|c| c.epoch)?;
                    (epoch >= rolled.epoch).then_some(())
                })
                .unwrap_or_else(|_late| panic!("{member} did not learn epoch {}", rolled.epoch));
            }
            println!("rotation {rotation}: epoch {}", rolled.epoch);
        }
        let (sent, lost) = flow.end();
        println!("{sent} packets over {ROTATIONS} rotations, {lost} lost");
        assert_eq!(lost, 0, "of {sent}");
    });
}

/// The trust anchor is replaced while packets flow: no session breaks, nothing is lost, and a machine with a token from before is
/// let in.
#[test]
fn a_new_root_interrupts_nothing() {
    within_namespaces(|| {
        let mut site = Site::new(FILE);
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2");
        site.machine("web-1").ping("web-2");
        let before = site.token("web", "web-3");
        let flow = Flow::start(site.machine("web-1"), site.machine("web-2"), RATE);
        let serials = ["web-1", "web-2"].map(|member| (member, site.member(member).serial));
        let rotated: v1::RootRotated =
            site.owner(async |owner| owner.post("/v1/enclaves/shop/root/rotate", &()).await.unwrap());
        assert_ne!(rotated.root_hash, rotated.previous_root_hash);
        // Everybody comes to have a bundle under the new root.
        for (member, serial) in serials {
            wait_for("a new bundle", Duration::from_secs(30), || {
                (site.member(member).serial > serial).then_some(())
            })
            .unwrap_or_else(|_late| panic!("{member} asks for none: {}", site.machine(member).daemon().stderr()));
        }
        let place = site.bare("web-3");
        site.machines[place].start(&before);
        site.machines[place].wait_ready();
        site.machine("web-3").ping("web-1");
        site.enrolled("web", "web-4").ping("web-1");
        let (sent, lost) = flow.end();
        assert_eq!(lost, 0, "of {sent}");
    });
}
