//! Keys and roots change under load, and nobody notices. `COTERIE_ROTATED` says for how many seconds packets flow after the last
//! rotation.

#![expect(
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that measures says what"
)]

use std::time::Duration;

use coterie_api::v1;
use coterie_lab::{wait_for, within_namespaces};

use crate::{
    FILE,
    flow::Flow,
    site::{DEADLINE, Site},
};

/// Datagrams a second of the flow.
const RATE: u32 = 2_000;
const ROTATIONS: u64 = 10;

/// How long an epoch that a removal ended goes on admitting, and a little more, seconds.
const GRACE: u64 = 12;

fn beyond() -> u64 {
    let seconds = std::env::var("COTERIE_ROTATED").map_or(GRACE, |n| n.parse().expect("a number"));
    seconds.max(GRACE)
}

/// Ten rotations by removal (an epoch that was never handed out, the old one gone after its grace) lose no packet in one community,
/// and a planned one, whose key is told first and used later, none in another; until after the last grace. Who heard of none of
/// them, with the key of before, starts nothing with anybody who did, until it has heard.
#[test]
fn ten_rotations_under_load_lose_no_packet() {
    within_namespaces(|| {
        // The shorter the lease, the sooner a planned epoch is used.
        let mut site = Site::new(&FILE.replace("lease = \"10m\"", "lease = \"2m\""));
        for (template, member) in [
            ("web", "web-1"),
            ("web", "web-2"),
            ("web", "web-3"),
            ("db", "db-1"),
            ("db", "db-2"),
        ] {
            site.enrolled(template, member);
        }
        site.machine("web-1").ping("web-2");
        site.machine("db-1").ping("db-2");
        wait_for("web-3 to know of the others", DEADLINE, || {
            site.machine("web-3").peer("web-1").map(drop)
        })
        .expect("it does");
        site.way("web-3", "add");
        let flows =
            [("web-1", "web-2"), ("db-1", "db-2")].map(|(a, b)| Flow::start(site.machine(a), site.machine(b), RATE));

        let planned = roll(&site, "db", v1::RollKind::Scheduled);
        assert!(planned.activates > protocol_time(&site), "{planned:?}");
        let mut last = 0;
        for rotation in 1..=ROTATIONS {
            let rolled = roll(&site, "web", v1::RollKind::Removal);
            assert!(rolled.epoch > last, "{rolled:?} after {last}");
            last = rolled.epoch;
            wait_epoch(&site, ["web-1", "web-2"], rolled.epoch);
            println!("rotation {rotation}: epoch {last}");
        }
        wait_epoch(&site, ["db-1", "db-2"], planned.epoch);
        let ended = protocol_time(&site);
        wait_time(&site, ended + GRACE);
        who_heard_of_nothing_starts_nothing(&site, last);
        wait_time(&site, ended + beyond());

        // A session outlives its epoch until its keys are old; then it is in the newest.
        let session = site.machine("web-1").session("web-2");
        assert!(
            session.epoch == last || session.age > f64::from(u32::try_from(beyond()).expect("few")),
            "{session:?}"
        );
        site.enrolled("db", "db-3").ping("db-1");
        assert_eq!(site.machine("db-3").session("db-1").epoch, planned.epoch);
        for (what, flow) in ["removals", "the planned one"].into_iter().zip(flows) {
            let (sent, lost) = flow.end();
            println!("{sent} packets over {what}, {lost} lost");
            assert!(sent > u64::from(RATE) * GRACE, "{sent}");
            assert_eq!(lost, 0, "of {sent}");
        }
    });
}

/// `web-3` has the key of the first epoch, a statement that holds, and is refused by nobody.
fn who_heard_of_nothing_starts_nothing(site: &Site, last: u64) {
    let old = site.machine("web-3").status();
    assert_eq!(old.communities[0].epoch, Some(1), "it heard of nothing");
    assert_eq!(old.membership, "current");
    let drops = |member: &str| site.machine(member).status().counters.drops;
    let strangers = |member: &str| drops(member).get("stranger").copied().unwrap_or(0);
    let before = strangers("web-1");
    for (from, to) in [("web-3", "web-1"), ("web-1", "web-3")] {
        let pong = site.machine(from).try_ping(to, Duration::from_secs(1));
        assert!(pong.is_none(), "{from} reaches {to}");
    }
    assert!(strangers("web-1") > before, "{:?}", drops("web-1"));
    let peer = site.machine("web-1").peer("web-3").expect("it is known");
    assert_ne!(peer.state, "revoked", "it is the epoch alone that is over");
    site.way("web-3", "del");
    wait_epoch(site, ["web-3"], last);
    site.machine("web-3").ping("web-1");
    assert_eq!(site.machine("web-3").session("web-1").epoch, last);
}

fn roll(site: &Site, community: &str, kind: v1::RollKind) -> v1::RolledKey {
    let path = format!("/v1/enclaves/shop/communities/{community}/rotate-key");
    let body = v1::RollRequest { kind };
    site.owner(async |owner| owner.post(&path, &body).await.expect("it is rolled"))
}

/// Waits until members use an epoch, or a later one.
fn wait_epoch<const N: usize>(site: &Site, members: [&str; N], epoch: u64) {
    for member in members {
        wait_for("the new epoch", DEADLINE, || {
            let used = site.machine(member).status().communities[0].epoch?;
            (used >= epoch).then_some(())
        })
        .unwrap_or_else(|_late| {
            panic!(
                "{member} did not learn epoch {epoch}: {:#?}",
                site.machine(member).status()
            )
        });
    }
}

fn wait_time(site: &Site, time: u64) {
    let longest = Duration::from_secs(time.saturating_sub(protocol_time(site)) + 5);
    wait_for("a time to come", longest, || {
        (protocol_time(site) >= time).then_some(())
    })
    .expect("time goes on");
}

/// By a member's clock, Unix seconds.
fn protocol_time(site: &Site) -> u64 {
    site.machine("web-1").status().protocol_time
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
