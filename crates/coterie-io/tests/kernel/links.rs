//! Interfaces, addresses, routes, rules and namespaces, as the kernel lists them afterwards.

use std::io;
use std::net::UdpSocket;

use coterie_io::link::{Family, Links, MAIN_TABLE, Mark, Protocol, Route, RouteKind, Rule, RuleAction};
use coterie_io::netns::{NetNs, unpin};
use ipnet::IpNet;

use crate::namespace::{inside, namespace, say, with_namespaces};

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal")
}

#[test]
fn interfaces_are_made_joined_moved_and_removed() {
    with_namespaces(module_path!(), "interfaces_are_made_joined_moved_and_removed", || {
        let (here, there) = (namespace(), namespace());
        inside(&here, || {
            let mut links = Links::open().expect("netlink");
            links.add_veth("a", "b").expect("a pair");
            links.add_bridge("br").expect("a bridge");
            links.set_bridge("a", "br").expect("a port");
            links.set_mtu("a", 1_300).expect("MTU");
            links.set_up("a").expect("up");
            let (a, bridge) = (links.link("a").expect("there"), links.link("br").expect("there"));
            assert_eq!(
                (a.mtu, a.up, a.bridge, a.hardware_address.len()),
                (1_300, true, Some(bridge.index), 6)
            );
            links.set_down("a").expect("down");
            assert!(!links.link("a").expect("there").up);

            let names: Vec<String> = links
                .links()
                .expect("listed")
                .into_iter()
                .map(|link| link.name)
                .collect();
            assert_eq!(names.first().map(String::as_str), Some("lo"));
            assert!(names.contains(&"b".to_owned()));

            links.move_to_netns("b", &there).expect("moved");
            assert!(!links.exists("b").expect("asked"));
            assert_eq!(
                links.add_veth("a", "c").expect_err("taken").kind(),
                io::ErrorKind::AlreadyExists
            );
            assert_eq!(links.set_up("z").expect_err("missing").kind(), io::ErrorKind::NotFound);
            assert!(links.set_up("z").expect_err("missing").to_string().contains("\"z\""));
            links.delete("br").expect("removed");
            assert!(!links.exists("br").expect("asked"));
        });
        inside(&there, || {
            let mut links = Links::open().expect("netlink");
            assert!(links.exists("b").expect("asked"));
            assert!(links.index("b").expect("there") > 1);
            links.delete("b").expect("removed");
        });
        inside(&here, || {
            assert!(!Links::open().expect("netlink").exists("a").expect("asked"))
        });
    });
}

#[test]
fn addresses_are_usable_at_once() {
    with_namespaces(module_path!(), "addresses_are_usable_at_once", || {
        inside(&namespace(), || {
            let mut links = Links::open().expect("netlink");
            links.add_veth("a", "b").expect("a pair");
            links.without_link_local("a").expect("set");
            links.set_up("b").expect("up");
            links.set_up("a").expect("up");
            for address in ["10.1.2.3/24", "fd00::3/64"] {
                links.add_address("a", net(address)).expect("given");
                UdpSocket::bind((net(address).addr(), 0)).expect("usable");
            }
            assert_eq!(
                links.addresses("a").expect("listed"),
                [net("10.1.2.3/24"), net("fd00::3/64")]
            );
            let twice = links.add_address("a", net("10.1.2.3/24")).expect_err("there");
            assert_eq!(twice.kind(), io::ErrorKind::AlreadyExists);
            links.del_address("a", net("10.1.2.3/24")).expect("taken");
            assert_eq!(links.addresses("a").expect("listed"), [net("fd00::3/64")]);
        });
    });
}

#[test]
fn ipv6_addresses_receive_as_soon_as_they_are_given() {
    with_namespaces(
        module_path!(),
        "ipv6_addresses_receive_as_soon_as_they_are_given",
        || {
            // The kernel is late about one time in three, so that some of these would see it.
            for number in 0..40 {
                inside(&namespace(), || {
                    let mut links = Links::open().expect("netlink");
                    links.add_veth("a", "b").expect("a pair");
                    links.without_link_local("a").expect("set");
                    links.set_up("b").expect("up");
                    let address_first = number % 2 == 0;
                    if address_first {
                        links.add_address("a", net("fd00::3/64")).expect("given");
                    }
                    links.set_up("a").expect("up");
                    if !address_first {
                        links.add_address("a", net("fd00::3/64")).expect("given");
                    }
                    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").expect("listed");
                    let own = "fd000000000000000000000000000003 80";
                    assert!(
                        routes.lines().any(|line| line.starts_with(own)),
                        "try {number}: {routes}"
                    );
                });
            }
        },
    );
}

#[test]
fn routes_are_listed_as_they_were_added() {
    with_namespaces(module_path!(), "routes_are_listed_as_they_were_added", || {
        inside(&namespace(), || {
            let mut links = Links::open().expect("netlink");
            links.add_veth("a", "b").expect("a pair");
            links.without_link_local("a").expect("set");
            links.set_up("a").expect("up");
            links.set_up("b").expect("up");
            links.add_address("a", net("10.1.0.1/16")).expect("given");
            links.add_address("a", net("fd00::1/64")).expect("given");

            let unicast = |destination: &str, via: Option<&str>, table| Route {
                destination: net(destination),
                kind: RouteKind::Unicast,
                device: Some("a".into()),
                via: via.map(|via| via.parse().expect("a literal")),
                table,
                metric: Some(50),
            };
            let refusing = |destination: &str, kind| Route {
                destination: net(destination),
                kind,
                device: None,
                via: None,
                table: 1_000,
                metric: Some(60),
            };
            let routes = [
                unicast("0.0.0.0/0", Some("10.1.0.9"), 1_000),
                unicast("10.7.0.0/16", None, 1_000),
                refusing("10.8.0.0/16", RouteKind::Unreachable),
                refusing("10.9.0.0/16", RouteKind::Prohibit),
                unicast("::/0", Some("fd00::9"), 1_000),
                unicast("fd07::/32", None, 1_000),
                refusing("fd08::/32", RouteKind::Unreachable),
                refusing("fd09::/32", RouteKind::Prohibit),
            ];
            for route in &routes {
                links.add_route(route).expect("added");
            }
            let listed = links.routes(1_000).expect("listed");
            for route in &routes {
                assert!(listed.contains(route), "{route:?} is not in {listed:#?}");
            }
            assert_eq!(listed.len(), routes.len());
            assert_eq!(
                links.add_route(&routes[0]).expect_err("there").kind(),
                io::ErrorKind::AlreadyExists
            );

            for route in &routes {
                links.del_route(route).expect("removed");
            }
            assert_eq!(links.routes(1_000).expect("listed"), []);
            assert_eq!(
                links.del_route(&routes[0]).expect_err("gone").kind(),
                io::ErrorKind::NotFound
            );
            let main = links.routes(MAIN_TABLE).expect("listed");
            assert!(
                main.iter().any(|route| route.destination == net("10.1.0.0/16")),
                "{main:?}"
            );
        });
    });
}

#[test]
fn rules_are_listed_as_they_were_added() {
    with_namespaces(module_path!(), "rules_are_listed_as_they_were_added", || {
        inside(&namespace(), || {
            let mut links = Links::open().expect("netlink");
            for (family, destination) in [(Family::V4, "10.0.0.0/8"), (Family::V6, "fd00::/8")] {
                let mark = Some(Mark {
                    value: 0xc071,
                    mask: 0xffff,
                });
                let rules = [
                    Rule {
                        mark,
                        ..Rule::all(family, 100, RuleAction::Table(1_000))
                    },
                    Rule {
                        mark,
                        invert: true,
                        ..Rule::all(family, 101, RuleAction::Prohibit)
                    },
                    Rule {
                        destination: Some(net(destination)),
                        suppress_prefix_length: Some(0),
                        ..Rule::all(family, 102, RuleAction::Table(MAIN_TABLE))
                    },
                    Rule {
                        protocol: Some(Protocol::Udp),
                        source_port: Some(68),
                        destination_port: Some(67),
                        ..Rule::all(family, 103, RuleAction::Unreachable)
                    },
                ];
                for rule in &rules {
                    links.add_rule(rule).expect("added");
                }
                let listed = links.rules(family).expect("listed");
                let ours: Vec<&Rule> = listed
                    .iter()
                    .filter(|rule| (100..104).contains(&rule.priority))
                    .collect();
                assert_eq!(ours, rules.iter().collect::<Vec<_>>());
                assert_eq!(
                    links.add_rule(&rules[0]).expect_err("there").kind(),
                    io::ErrorKind::AlreadyExists
                );
                for rule in &rules {
                    links.del_rule(rule).expect("removed");
                }
                let left = links.rules(family).expect("listed");
                assert!(left.iter().all(|rule| !(100..104).contains(&rule.priority)));
                assert_eq!(
                    links.del_rule(&rules[0]).expect_err("gone").kind(),
                    io::ErrorKind::NotFound
                );
            }
        });
    });
}

#[test]
fn a_pinned_namespace_outlives_its_makers() {
    with_namespaces(module_path!(), "a_pinned_namespace_outlives_its_makers", || {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pin");
        let made = namespace();
        if let Err(error) = made.pin(&path) {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            say(&format!(
                "skipped: the mount namespace belongs to somebody else ({error})"
            ));
            return;
        }
        assert_eq!(made.pin(&path).expect_err("taken").kind(), io::ErrorKind::AlreadyExists);
        inside(&made, || {
            Links::open().expect("netlink").add_bridge("mark").expect("made")
        });
        drop(made);
        let found = NetNs::open(&path).expect("still there");
        inside(&found, || {
            assert!(Links::open().expect("netlink").exists("mark").expect("asked"))
        });
        unpin(&path).expect("taken back");
        assert!(!path.exists());
        // The caller never left its own namespace.
        assert!(!Links::open().expect("netlink").exists("mark").expect("asked"));
    });
}

#[test]
fn a_panic_inside_a_namespace_reaches_the_caller() {
    with_namespaces(module_path!(), "a_panic_inside_a_namespace_reaches_the_caller", || {
        let made = namespace();
        let caught = std::panic::catch_unwind(|| made.run(|| panic!("inside")));
        assert!(caught.is_err());
    });
}
