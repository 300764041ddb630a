//! The rule of choice, by example and against a plain restatement of it.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn names(text: &str) -> Vec<Name> {
    text.split_whitespace().map(name).collect()
}

/// `communities`: `name priority`; `members`: `name: communities / exclusions`.
fn topology(communities: &[(&str, u16)], members: &[(&str, &str, &str)]) -> Topology {
    let mut topology = Topology::new();
    for (community, priority) in communities {
        topology.add_community(name(community), *priority);
    }
    for (member, held, exclude) in members {
        topology.add_member(name(member), names(held), names(exclude));
    }
    topology
}

fn chosen<'t>(topology: &'t Topology, from: &str, to: &str) -> Option<&'t str> {
    choose(topology, &name(from), &name(to)).map(Name::as_str)
}

#[test]
fn the_lowest_priority_number_comes_first() {
    let t = topology(&[("a", 20), ("b", 10)], &[("x", "a b", ""), ("y", "a b", "")]);
    assert_eq!(chosen(&t, "x", "y"), Some("b"));
}

#[test]
fn at_equal_priority_the_fewest_members_come_first() {
    let t = topology(
        &[("a", 10), ("b", 10)],
        &[("x", "a b", ""), ("y", "a b", ""), ("z", "a", "")],
    );
    assert_eq!(chosen(&t, "x", "y"), Some("b"));
}

#[test]
fn at_equal_priority_and_size_the_first_name_comes_first() {
    let t = topology(&[("b", 10), ("a", 10)], &[("x", "a b", ""), ("y", "a b", "")]);
    assert_eq!(chosen(&t, "x", "y"), Some("a"));
}

#[test]
fn a_community_that_holds_an_excluded_member_is_dropped_for_that_sender_alone() {
    let t = topology(
        &[("a", 10), ("b", 20)],
        &[("x", "a b", "legacy"), ("y", "a b", ""), ("legacy", "a", "")],
    );
    assert_eq!(chosen(&t, "x", "y"), Some("b"));
    assert_eq!(chosen(&t, "y", "x"), Some("a"));
    assert_eq!(chosen(&t, "x", "legacy"), None);
}

#[test]
fn a_member_that_excludes_itself_excludes_nobody() {
    let t = topology(&[("a", 10)], &[("x", "a", "x"), ("y", "a", "")]);
    assert_eq!(chosen(&t, "x", "y"), Some("a"));
}

#[test]
fn strangers_and_oneself_are_not_reached() {
    let t = topology(&[("a", 10), ("b", 10)], &[("x", "a", ""), ("y", "b", "")]);
    assert_eq!(chosen(&t, "x", "y"), None);
    assert_eq!(chosen(&t, "x", "x"), None);
    assert_eq!(chosen(&t, "x", "nobody"), None);
    assert_eq!(
        explain(&t, &name("x"), &name("nobody")),
        Err(ReachError::UnknownMember { name: name("nobody") })
    );
    assert_eq!(
        explain(&t, &name("x"), &name("x")),
        Err(ReachError::SameMember { name: name("x") })
    );
}

#[test]
fn the_explanation_reads_well() {
    let t = topology(
        &[("web", 10), ("web-app", 10), ("admin", 200), ("old", 5)],
        &[
            ("web-1", "web web-app admin old", "legacy-1"),
            ("app-1", "web web-app admin old", ""),
            ("app-2", "web", ""),
            ("legacy-1", "old", ""),
            ("db-1", "", ""),
        ],
    );
    let text = explain(&t, &name("web-1"), &name("app-1")).unwrap().to_string();
    assert_eq!(
        text,
        "web-1 reaches app-1 via web-app\n  \
         web-app  priority 10, 2 members: chosen\n  \
         web      priority 10, 3 members: not chosen: another of the same priority has fewer members\n  \
         admin    priority 200, 2 members: not chosen: another has a lower priority number\n  \
         old      priority 5, 3 members: left out: holds legacy-1, excluded by the sender"
    );
    let text = explain(&t, &name("web-1"), &name("db-1")).unwrap().to_string();
    assert_eq!(
        text,
        "web-1 does not reach db-1: they share no community\n  \
         web-1 holds admin, old, web, web-app\n  db-1 holds none"
    );
    let json = serde_json::to_value(explain(&t, &name("web-1"), &name("app-1")).unwrap()).unwrap();
    assert_eq!(json["chosen"], "web-app");
    assert_eq!(json["shared"][3]["verdict"]["holds-excluded"][0], "legacy-1");
}

/// One member: name, communities held, members excluded.
type Drawn = (usize, Vec<usize>, Vec<usize>);

fn arbitrary() -> impl Strategy<Value = (Vec<u16>, Vec<Drawn>)> {
    let member = (
        prop::collection::vec(0_usize..5, 0..5),
        prop::collection::vec(0_usize..7, 0..2),
    );
    (prop::collection::vec(0_u16..3, 5), prop::collection::vec(member, 2..7)).prop_map(|(priorities, members)| {
        let members = members
            .into_iter()
            .enumerate()
            .map(|(index, (held, exclude))| (index, held, exclude));
        (priorities, members.collect())
    })
}

fn build(priorities: &[u16], members: &[Drawn]) -> Topology {
    let mut topology = Topology::new();
    for (index, priority) in priorities.iter().enumerate() {
        topology.add_community(name(&format!("c{index}")), *priority);
    }
    for (index, held, exclude) in members {
        topology.add_member(
            name(&format!("m{index}")),
            held.iter().map(|c| name(&format!("c{c}"))),
            exclude.iter().map(|m| name(&format!("m{m}"))),
        );
    }
    topology
}

/// The rule restated with nothing shared with the code under test.
fn oracle(priorities: &[u16], members: &[Drawn], from: usize, to: usize) -> Option<String> {
    let holds = |member: &Drawn, community: usize| member.1.contains(&community);
    let mut best: Option<(u16, usize, String)> = None;
    for (community, priority) in priorities.iter().enumerate() {
        let holders: Vec<usize> = members.iter().filter(|m| holds(m, community)).map(|m| m.0).collect();
        let heard = members[from]
            .2
            .iter()
            .any(|excluded| *excluded != from && holders.contains(excluded));
        if !holders.contains(&from) || !holders.contains(&to) || heard {
            continue;
        }
        let candidate = (*priority, holders.len(), format!("c{community}"));
        if best.as_ref().is_none_or(|current| candidate < *current) {
            best = Some(candidate);
        }
    }
    best.map(|(_, _, community)| community)
}

proptest! {
    #[test]
    fn choose_explain_and_the_rule_agree((priorities, members) in arbitrary()) {
        let topology = build(&priorities, &members);
        for from in 0..members.len() {
            for to in (0..members.len()).filter(|to| *to != from) {
                let (from_name, to_name) = (name(&format!("m{from}")), name(&format!("m{to}")));
                let choice = choose(&topology, &from_name, &to_name);
                let explanation = explain(&topology, &from_name, &to_name).unwrap();
                prop_assert_eq!(choice, explanation.chosen.as_ref());
                prop_assert_eq!(choice.map(ToString::to_string), oracle(&priorities, &members, from, to));

                let in_use = explanation.shared.iter().filter(|c| matches!(c.verdict, Verdict::Chosen));
                prop_assert_eq!(in_use.map(|c| &c.community).collect::<Vec<_>>(), Vec::from_iter(choice));
                let both = members[from].1.iter().filter(|c| members[to].1.contains(c)).collect::<BTreeSet<_>>();
                prop_assert_eq!(explanation.shared.len(), both.len());
                for considered in &explanation.shared {
                    if let Verdict::HoldsExcluded(excluded) = &considered.verdict {
                        prop_assert!(!excluded.is_empty());
                        prop_assert!(!excluded.contains(&explanation.from));
                    }
                }
            }
        }
    }
}
