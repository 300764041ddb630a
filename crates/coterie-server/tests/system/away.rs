//! The server is away: members go on, meet each other for the first time, and close when their leases end.
//! `COTERIE_AWAY` says for how many seconds it is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use coterie_api::v1::MemberState;
use coterie_lab::{wait_for, within_namespaces};

use crate::{
    FILE,
    flow::{Ear, Flow},
    site::{Machine, Site},
};

/// Template and member. The first two have met before the server goes.
const MEMBERS: [(&str, &str); 7] = [
    ("web", "web-1"),
    ("web", "web-2"),
    ("web", "web-3"),
    ("app", "app-1"),
    ("app", "app-2"),
    ("db", "db-1"),
    ("db", "db-2"),
];

fn away_for() -> Duration {
    Duration::from_secs(std::env::var("COTERIE_AWAY").map_or(5, |n| n.parse().expect("a number")))
}

/// Whether two members may speak: what the file says in other words.
fn is_allowed(one: &str, other: &str) -> bool {
    let is = |template: &str, member: &str| member.starts_with(template);
    !(is("web", one) && is("db", other) || is("db", one) && is("web", other))
}

/// Members, each listening at its inside address.
struct Crowd<'a> {
    site: &'a Site,
    ears: BTreeMap<&'static str, (IpAddr, Ear)>,
}

impl<'a> Crowd<'a> {
    fn new(site: &'a Site) -> Self {
        let ear = |member| {
            let machine = site.machine(member);
            (member, (machine.inside(), Ear::at(machine)))
        };
        let ears = MEMBERS.into_iter().map(|(_, member)| ear(member)).collect();
        Self { site, ears }
    }

    fn call(&self, from: &str, to: &str) {
        self.ears[to].1.called_by(self.site.machine(from));
    }

    /// Two that have no session have one after the first datagram, which arrives; the answer too.
    fn meet(&self, from: &str, to: &str) {
        let (machine, (inside, _)) = (self.site.machine(from), &self.ears[from]);
        let session = |machine: &Machine, other| machine.peer(other).expect("it is known").session;
        assert_eq!(session(machine, to), None, "{from} and {to} have not met");
        self.call(from, to);
        wait_for("the first datagram", Duration::from_secs(5), || {
            self.ears[to].1.has_heard(*inside).then_some(())
        })
        .unwrap_or_else(|_late| panic!("{from} does not reach {to}: {:#?}", machine.status()));
        self.site.machine(to).ping(from);
        self.call(to, from);
    }

    /// Everybody tries everybody it may not reach, by inside address and by name.
    fn try_forbidden(&self) {
        for (from, to) in pairs(|from, to| !is_allowed(from, to)) {
            self.call(from, to);
            for destination in [to.to_owned(), self.ears[to].0.to_string()] {
                let pong = self
                    .site
                    .machine(from)
                    .try_ping(&destination, Duration::from_millis(20));
                assert!(pong.is_none(), "{from} reaches {destination}");
            }
        }
    }

    /// Each has heard all whom it may hear, and nobody else.
    fn judge(&self) {
        for (member, (_, ear)) in &self.ears {
            let others = self.ears.iter().filter(|(other, _)| *other != member);
            let allowed: BTreeSet<IpAddr> = others
                .filter(|(other, _)| is_allowed(other, member))
                .map(|(_, (inside, _))| *inside)
                .collect();
            let heard = wait_for("everybody to be heard", Duration::from_secs(5), || {
                (ear.heard() == allowed).then_some(())
            });
            assert!(heard.is_ok(), "{member} hears {:?} instead of {allowed:?}", ear.heard());
        }
    }
}

/// Ordered pairs that `wanted` likes.
fn pairs(wanted: impl Fn(&str, &str) -> bool) -> Vec<(&'static str, &'static str)> {
    let names = || MEMBERS.into_iter().map(|(_, member)| member);
    names()
        .flat_map(|from| names().map(move |to| (from, to)))
        .filter(|(from, to)| from != to && wanted(from, to))
        .collect()
}

/// All pairs that may meet do so while the server is away, one after another over the whole time and beside a flow that loses
/// nothing; no pair does that may not, which is tried all along. The server is back, and everybody follows again.
#[test]
fn members_meet_for_the_first_time_while_the_server_is_away() {
    within_namespaces(|| {
        let mut site = Site::new(&FILE.replace("lease = \"10m\"", "lease = \"1h\""));
        for (template, member) in MEMBERS {
            site.enrolled(template, member);
        }
        // Everybody knows of everybody it may know.
        for (_, member) in MEMBERS {
            let peers = pairs(|from, to| from == member && is_allowed(from, to)).len();
            wait_for("views", Duration::from_secs(10), || {
                (site.machine(member).status().peers.len() == peers).then_some(())
            })
            .unwrap_or_else(|_late| panic!("{member}: {:?}", site.machine(member).status().peers));
        }
        site.machine("web-1").ping("web-2");
        let flow = Flow::start(site.machine("web-1"), site.machine("web-2"), 1000);
        site.kill_server();
        be_alone(&site, away_for());
        site.up();
        for (_, member) in MEMBERS {
            wait_for("it to follow again", Duration::from_secs(30), || {
                (site.member(member).state == MemberState::Connected).then_some(())
            })
            .unwrap_or_else(|_late| panic!("{member}: {}", site.machine(member).daemon().stderr()));
        }
        let (sent, lost) = flow.end();
        assert!(sent > 1000, "{sent}");
        assert_eq!(lost, 0, "of {sent}");
    });
}

fn be_alone(site: &Site, away: Duration) {
    let crowd = Crowd::new(site);
    let mut meetings = pairs(|one, other| one < other && is_allowed(one, other) && (one, other) != ("web-1", "web-2"));
    // Every second one is begun by the other.
    meetings.iter_mut().step_by(2).for_each(|pair| *pair = (pair.1, pair.0));
    crowd.call("web-1", "web-2");
    crowd.call("web-2", "web-1");
    let (began, count) = (Instant::now(), u32::try_from(meetings.len()).expect("a few"));
    for (n, (from, to)) in (1..).zip(meetings) {
        wait_for("its turn", away + Duration::from_secs(1), || {
            (began.elapsed() >= away * n / count).then_some(())
        })
        .expect("time goes on");
        crowd.meet(from, to);
        crowd.try_forbidden();
    }
    assert!(began.elapsed() >= away);
    crowd.judge();
    for (_, member) in MEMBERS {
        let server = site.machine(member).status().server.expect("it has a server");
        assert_ne!(server.state, "following", "{member} was alone all the time");
    }
}

/// Past the end of the lease (the shortest: a minute) nothing goes any more, and status says why.
#[test]
fn past_the_end_of_its_lease_a_member_is_closed_and_says_so() {
    within_namespaces(|| {
        let mut site = Site::new(&FILE.replace("lease = \"10m\"", "lease = \"1m\""));
        site.enrolled("web", "web-1");
        site.enrolled("web", "web-2");
        site.machine("web-1").ping("web-2");
        let membership = |site: &Site, member: &str| site.machine(member).status().membership;
        assert_eq!(membership(&site, "web-1"), "current");
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
        let said = membership(&site, "web-1");
        assert!(said.starts_with("ended: the lease ran out"), "{said}");
        let ear = Ear::at(site.machine("web-2"));
        ear.called_by(site.machine("web-1"));
        let heard = wait_for("a datagram", Duration::from_secs(1), || {
            ear.has_heard(site.machine("web-1").inside()).then_some(())
        });
        assert!(heard.is_err(), "no packet goes either");
        // It is back, and so are they.
        site.up();
        site.machine("web-1").ping("web-2");
        assert_eq!(membership(&site, "web-1"), "current");
        ear.called_by(site.machine("web-1"));
        wait_for("a datagram", Duration::from_secs(5), || {
            ear.has_heard(site.machine("web-1").inside()).then_some(())
        })
        .expect("packets go again");
    });
}
