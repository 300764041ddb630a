//! The firewall layers, as chains of rules. Nothing here speaks to the kernel.

use std::net::IpAddr;

use netlink_packet_netfilter::nftables::MetaKey;

use crate::link::Protocol;

use super::nft::{Chain, Family, Hook, Rule};
use super::{Allow, Lockdown, Who};

const IPV4: u8 = 2;
const IPV6: u8 = 10;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Ports of DHCP: EtherType, nftables' number of the family, the client's port and the server's.
const DHCP: [(u16, u8, u16, u16); 2] = [(ETHERTYPE_IPV4, IPV4, 68, 67), (ETHERTYPE_IPV6, IPV6, 546, 547)];

/// All chains of `lockdown`, for those of its interfaces that are `present`.
pub(super) fn chains(lockdown: &Lockdown, present: &[String], egress: bool) -> Vec<Chain> {
    let mut chains = vec![
        Chain {
            family: Family::Inet,
            name: "outside-out".into(),
            hook: None,
            rules: outside_out(lockdown),
        },
        Chain {
            family: Family::Inet,
            name: "outside-in".into(),
            hook: None,
            rules: outside_in(lockdown),
        },
        inet("output", Hook::OUTPUT, jumps(lockdown, MetaKey::Oifname, "outside-out")),
        inet("input", Hook::INPUT, jumps(lockdown, MetaKey::Iifname, "outside-in")),
        inet("forward", Hook::FORWARD, forward(lockdown)),
    ];
    if egress {
        let rules = outside_egress(lockdown);
        chains.push(Chain {
            family: Family::Netdev,
            name: "outside-egress".into(),
            hook: None,
            rules,
        });
    }
    for interface in present {
        let mark = vec![Rule::new("mark").set_mark(lockdown.mark)];
        chains.push(netdev("ingress", Hook::INGRESS, interface, mark));
        if egress {
            chains.push(netdev(
                "egress",
                Hook::EGRESS,
                interface,
                vec![Rule::new(interface).jump("outside-egress")],
            ));
        }
    }
    chains
}

fn inet(name: &str, number: u32, rules: Vec<Rule>) -> Chain {
    let hook = Some(Hook { number, device: None });
    Chain {
        family: Family::Inet,
        name: name.into(),
        hook,
        rules,
    }
}

fn netdev(name: &str, number: u32, interface: &str, rules: Vec<Rule>) -> Chain {
    let hook = Some(Hook {
        number,
        device: Some(interface.into()),
    });
    Chain {
        family: Family::Netdev,
        name: format!("{name}-{interface}"),
        hook,
        rules,
    }
}

fn jumps(lockdown: &Lockdown, key: MetaKey, chain: &str) -> Vec<Rule> {
    lockdown
        .outside
        .iter()
        .map(|interface| Rule::new(interface).interface(key, interface).jump(chain))
        .collect()
}

fn forward(lockdown: &Lockdown) -> Vec<Rule> {
    let ways = [MetaKey::Iifname, MetaKey::Oifname];
    let each = lockdown
        .outside
        .iter()
        .flat_map(|interface| ways.map(|key| (key, interface)));
    each.map(|(key, interface)| Rule::new("drop-forward").interface(key, interface).count().drop())
        .collect()
}

fn outside_out(lockdown: &Lockdown) -> Vec<Rule> {
    let mut rules = vec![own_out(Rule::new("own"), lockdown)];
    for kind in [ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
        rules.push(discovery(kind));
    }
    if lockdown.dhcp {
        let ports = DHCP.map(|(_, family, client, server)| {
            Rule::new("dhcp")
                .family(family)
                .transport(UDP)
                .source_port(client)
                .destination_port(server)
                .accept()
        });
        rules.extend(ports);
    }
    for allow in &lockdown.allow {
        let rule = Rule::new("allow").interface(MetaKey::Oifname, &allow.interface);
        rules.push(remote_out(rule.family(family_of(allow)), allow, lockdown.mark));
    }
    // A reset ends a connect at once; what is not TCP is told that it is prohibited.
    rules.push(
        Rule::new("reject-tcp")
            .transport(Protocol::Tcp.number())
            .count()
            .reject_with_reset(),
    );
    rules.push(Rule::new("reject").count().reject_as_prohibited());
    rules
}

fn outside_in(lockdown: &Lockdown) -> Vec<Rule> {
    let mut rules = vec![Rule::new("own").transport(UDP).destination_port(lockdown.port).accept()];
    for kind in [ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
        rules.push(discovery(kind));
    }
    if lockdown.dhcp {
        let ports = DHCP.map(|(_, family, client, server)| {
            Rule::new("dhcp")
                .family(family)
                .transport(UDP)
                .source_port(server)
                .destination_port(client)
                .accept()
        });
        rules.extend(ports);
    }
    for allow in &lockdown.allow {
        let rule = Rule::new("allow")
            .interface(MetaKey::Iifname, &allow.interface)
            .family(family_of(allow));
        let rule = match allow.remote.ip() {
            IpAddr::V4(address) => rule.network(12, &address.octets()),
            IpAddr::V6(address) => rule.network(8, &address.octets()),
        };
        let rule = rule.transport(allow.protocol.number()).source_port(allow.remote.port());
        rules.push(rule.established().accept());
    }
    rules.push(Rule::new("drop-in").count().drop());
    rules
}

fn outside_egress(lockdown: &Lockdown) -> Vec<Rule> {
    let mut rules = vec![Rule::new("arp").frame(ETHERTYPE_ARP).accept()];
    for ethertype in [ETHERTYPE_IPV4, ETHERTYPE_IPV6] {
        rules.push(own_out(Rule::new("own").frame(ethertype), lockdown));
    }
    for kind in [ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
        rules.push(
            Rule::new("discovery")
                .frame(ETHERTYPE_IPV6)
                .transport(ICMPV6)
                .first_byte(kind)
                .accept(),
        );
    }
    if lockdown.dhcp {
        let ports = DHCP.map(|(ethertype, _, client, server)| {
            Rule::new("dhcp")
                .frame(ethertype)
                .transport(UDP)
                .source_port(client)
                .destination_port(server)
                .accept()
        });
        rules.extend(ports);
    }
    for allow in &lockdown.allow {
        let ethertype = if allow.remote.is_ipv4() {
            ETHERTYPE_IPV4
        } else {
            ETHERTYPE_IPV6
        };
        let rule = Rule::new("allow").interface(MetaKey::Oifname, &allow.interface);
        rules.push(remote_out(rule.frame(ethertype), allow, lockdown.mark));
    }
    rules.push(Rule::new("drop-egress").count().drop());
    rules
}

fn own_out(rule: Rule, lockdown: &Lockdown) -> Rule {
    rule.transport(UDP)
        .source_port(lockdown.port)
        .marked(lockdown.mark)
        .accept()
}

fn discovery(kind: u8) -> Rule {
    Rule::new("discovery")
        .family(IPV6)
        .transport(ICMPV6)
        .first_byte(kind)
        .accept()
}

fn remote_out(rule: Rule, allow: &Allow, mark: u32) -> Rule {
    let rule = match allow.remote.ip() {
        IpAddr::V4(address) => rule.network(16, &address.octets()),
        IpAddr::V6(address) => rule.network(24, &address.octets()),
    };
    let rule = rule
        .transport(allow.protocol.number())
        .destination_port(allow.remote.port());
    match allow.who {
        Who::Everybody => rule,
        Who::Marked => rule.marked(mark),
    }
    .accept()
}

fn family_of(allow: &Allow) -> u8 {
    if allow.remote.is_ipv4() { IPV4 } else { IPV6 }
}
