//! The routing layer: rules by which unmarked packets find no way outside.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::link::{Family, Links, MAIN_TABLE, Mark, Protocol, Rule, RuleAction, has_ipv6};

use super::{Lockdown, Routing, Who};

/// Puts the rules in force: what is missing is added before what does not belong is taken away.
pub(super) fn install(links: &mut Links, lockdown: &Lockdown) -> io::Result<()> {
    for family in families() {
        let wanted = rules(lockdown, family);
        let present = ours(links, lockdown, family)?;
        // From the last tried to the first, so that the refusal stands before anything is let through.
        for rule in wanted.iter().rev().filter(|rule| !present.contains(rule)) {
            links.add_rule(rule)?;
        }
        for rule in present.iter().filter(|rule| !wanted.contains(rule)) {
            links.del_rule(rule)?;
        }
    }
    Ok(())
}

/// Takes the rules away, the refusal first.
pub(super) fn remove(links: &mut Links, lockdown: &Lockdown) -> io::Result<()> {
    for family in families() {
        for rule in ours(links, lockdown, family)?.iter().rev() {
            match links.del_rule(rule) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// The differences from what [`install`] makes.
pub(super) fn missing(links: &mut Links, lockdown: &Lockdown) -> io::Result<Vec<String>> {
    let mut missing = Vec::new();
    for family in families() {
        let wanted = rules(lockdown, family);
        let present = ours(links, lockdown, family)?;
        missing.extend(
            wanted
                .iter()
                .filter(|rule| !present.contains(rule))
                .map(|rule| format!("no rule {rule}")),
        );
        let foreign = present.iter().filter(|rule| !wanted.contains(rule));
        missing.extend(foreign.map(|rule| format!("a rule that is not ours: {rule}")));
    }
    Ok(missing)
}

fn ours(links: &mut Links, lockdown: &Lockdown, family: Family) -> io::Result<Vec<Rule>> {
    let first = lockdown.routing.priority;
    let range = first..first + Routing::RULES;
    Ok(links
        .rules(family)?
        .into_iter()
        .filter(|rule| range.contains(&rule.priority))
        .collect())
}

fn families() -> impl Iterator<Item = Family> {
    [Some(Family::V4), has_ipv6().then_some(Family::V6)]
        .into_iter()
        .flatten()
}

/// The rules in the order in which they are tried.
fn rules(lockdown: &Lockdown, family: Family) -> Vec<Rule> {
    let at = |offset, action| Rule::all(family, lockdown.routing.priority + offset, action);
    let mark = Some(Mark {
        value: lockdown.mark,
        mask: u32::MAX,
    });
    let main = RuleAction::Table(MAIN_TABLE);
    let of_family = |address: IpAddr| address.is_ipv4() == (family == Family::V4);

    let mut rules = vec![
        Rule { mark, ..at(0, main) },
        // What is marked never falls through to the inside, where it would come back to us.
        Rule {
            mark,
            ..at(1, RuleAction::Unreachable)
        },
    ];
    rules.extend(
        lockdown
            .routing
            .inside_table
            .map(|table| at(2, RuleAction::Table(table))),
    );
    let inside = lockdown.routing.inside.iter().filter(|prefix| of_family(prefix.addr()));
    rules.extend(inside.map(|prefix| Rule {
        destination: Some(prefix.trunc()),
        suppress_prefix_length: Some(0),
        ..at(3, main)
    }));
    // What is marked has its way already.
    let allowed = lockdown.allow.iter().filter(|allow| allow.who == Who::Everybody);
    let allowed = allowed.filter(|allow| of_family(allow.remote.ip()));
    rules.extend(allowed.map(|allow| Rule {
        destination: Some(IpNet::from(allow.remote.ip())),
        protocol: Some(allow.protocol),
        destination_port: Some(allow.remote.port()),
        ..at(4, main)
    }));
    if lockdown.dhcp {
        let (client, server) = match family {
            Family::V4 => (68, 67),
            Family::V6 => (546, 547),
        };
        rules.push(Rule {
            protocol: Some(Protocol::Udp),
            source_port: Some(client),
            destination_port: Some(server),
            ..at(5, main)
        });
    }
    rules.push(Rule {
        mark,
        invert: true,
        ..at(6, RuleAction::Prohibit)
    });
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockdown::Allow;

    fn allow(who: Who, remote: &str) -> Allow {
        Allow {
            who,
            interface: "eth0".into(),
            protocol: Protocol::Tcp,
            remote: remote.parse().expect("a literal"),
        }
    }

    #[test]
    fn rules_come_in_the_documented_order() {
        let lockdown = Lockdown {
            table_name: "dark".into(),
            outside: vec!["eth0".into()],
            port: 7,
            mark: 0xc0,
            allow: vec![
                allow(Who::Everybody, "192.0.2.1:22"),
                allow(Who::Marked, "192.0.2.2:4750"),
            ],
            dhcp: true,
            routing: Routing {
                priority: 5_000,
                inside_table: Some(77),
                inside: vec!["10.1.2.3/16".parse().expect("a literal")],
            },
        };
        let texts = |family| {
            rules(&lockdown, family)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        let expected = [
            "IPv4 5000: from all fwmark 0xc0/0xffffffff lookup 254",
            "IPv4 5001: from all fwmark 0xc0/0xffffffff unreachable",
            "IPv4 5002: from all lookup 77",
            "IPv4 5003: from all to 10.1.0.0/16 lookup 254 suppress_prefixlength 0",
            "IPv4 5004: from all to 192.0.2.1/32 ipproto tcp dport 22 lookup 254",
            "IPv4 5005: from all ipproto udp sport 68 dport 67 lookup 254",
            "IPv4 5006: not from all fwmark 0xc0/0xffffffff prohibit",
        ];
        assert_eq!(texts(Family::V4), expected);
        let expected = [
            "IPv6 5000: from all fwmark 0xc0/0xffffffff lookup 254",
            "IPv6 5001: from all fwmark 0xc0/0xffffffff unreachable",
            "IPv6 5002: from all lookup 77",
            "IPv6 5005: from all ipproto udp sport 546 dport 547 lookup 254",
            "IPv6 5006: not from all fwmark 0xc0/0xffffffff prohibit",
        ];
        assert_eq!(texts(Family::V6), expected);
    }
}
