//! Routing rules: which table a packet's destination is looked up in.

use std::fmt;
use std::io;

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction as WireAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Links, context};

/// Which of the two kinds of IP a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Protocol 6.
    Tcp,
    /// Protocol 17.
    Udp,
}

impl Protocol {
    /// The protocol's number in IP headers.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A firewall mark that a rule matches: the packet's, masked, is `value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The mark.
    pub value: u32,
    /// The bits of it that count.
    pub mask: u32,
}

/// What a rule that matches does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// Looks into this table; if that has no route, the next rule is tried.
    Table(u32),
    /// Refuses: the sender is told that the destination cannot be reached.
    Unreachable,
    /// Refuses: the sender is told that it is forbidden.
    Prohibit,
}

/// A routing rule. What is `None` matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The kind of IP.
    pub family: Family,
    /// Rules are tried from the lowest number up; 0 is the kernel's own, for addresses of this machine.
    pub priority: u32,
    /// The packet's mark.
    pub mark: Option<Mark>,
    /// Match what does *not* match the rest.
    pub invert: bool,
    /// The packet's destination.
    pub destination: Option<IpNet>,
    /// The packet's protocol.
    pub protocol: Option<Protocol>,
    /// The packet's source port.
    pub source_port: Option<u16>,
    /// The packet's destination port.
    pub destination_port: Option<u16>,
    /// Ignore routes that the table gives for prefixes of this length or shorter (0: default routes).
    pub suppress_prefix_length: Option<u32>,
    /// What is done.
    pub action: RuleAction,
}

impl Rule {
    /// A rule that matches everything.
    #[must_use]
    pub fn all(family: Family, priority: u32, action: RuleAction) -> Self {
        Self {
            family,
            priority,
            mark: None,
            invert: false,
            destination: None,
            protocol: None,
            source_port: None,
            destination_port: None,
            suppress_prefix_length: None,
            action,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V4 { "IPv4" } else { "IPv6" };
        write!(f, "{family} {}:", self.priority)?;
        if self.invert {
            f.write_str(" not")?;
        }
        f.write_str(" from all")?;
        if let Some(destination) = self.destination {
            write!(f, " to {destination}")?;
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {:#x}/{:#x}", mark.value, mark.mask)?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, " ipproto {protocol}")?;
        }
        if let Some(port) = self.source_port {
            write!(f, " sport {port}")?;
        }
        if let Some(port) = self.destination_port {
            write!(f, " dport {port}")?;
        }
        match self.action {
            RuleAction::Table(table) => write!(f, " lookup {table}")?,
            RuleAction::Unreachable => f.write_str(" unreachable")?,
            RuleAction::Prohibit => f.write_str(" prohibit")?,
        }
        if let Some(length) = self.suppress_prefix_length {
            write!(f, " suppress_prefixlength {length}")?;
        }
        Ok(())
    }
}

impl Links {
    /// Adds a routing rule.
    ///
    /// # Errors
    /// `AlreadyExists`; `PermissionDenied` without `CAP_NET_ADMIN`; `Unsupported` for a family that the kernel lacks.
    pub fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRule(encode(rule));
        let result = self.netlink.request(message, NLM_F_CREATE | NLM_F_EXCL);
        result.map_err(|error| context(&format!("cannot add the routing rule {rule}"), &error))
    }

    /// Removes a routing rule.
    ///
    /// # Errors
    /// `NotFound` when there is no such rule; `PermissionDenied` without `CAP_NET_ADMIN`.
    pub fn del_rule(&mut self, rule: &Rule) -> io::Result<()> {
        let result = self.netlink.request(RouteNetlinkMessage::DelRule(encode(rule)), 0);
        result.map_err(|error| context(&format!("cannot remove the routing rule {rule}"), &error))
    }

    /// The routing rules of a family in the order in which they are tried, without those that [`Rule`] cannot express: with
    /// other actions, or that select by interface, source, user or a range of ports.
    ///
    /// # Errors
    /// What netlink reports.
    pub fn rules(&mut self, family: Family) -> io::Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = wire_family(family);
        let found = self.netlink.dump(RouteNetlinkMessage::GetRule(message))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(rule) => decode(rule, family),
                _ => None,
            })
            .collect())
    }
}

fn wire_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn encode(rule: &Rule) -> RuleMessage {
    /// `FRA_IP_PROTO`; the codec's own type for its value cannot be named outside of it.
    const PROTOCOL: u16 = 22;

    let mut message = RuleMessage::default();
    message.header.family = wire_family(rule.family);
    if rule.invert {
        message.header.flags |= RuleFlags::Invert;
    }
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    if let Some(mark) = rule.mark {
        attributes.push(RuleAttribute::FwMark(mark.value));
        attributes.push(RuleAttribute::FwMask(mark.mask));
    }
    if let Some(destination) = rule.destination {
        message.header.dst_len = destination.prefix_len();
        attributes.push(RuleAttribute::Destination(destination.network()));
    }
    if let Some(protocol) = rule.protocol {
        attributes.push(RuleAttribute::Other(DefaultNla::new(PROTOCOL, vec![protocol.number()])));
    }
    if let Some(port) = rule.source_port {
        attributes.push(RuleAttribute::SourcePortRange(RulePortRange { start: port, end: port }));
    }
    if let Some(port) = rule.destination_port {
        attributes.push(RuleAttribute::DestinationPortRange(RulePortRange {
            start: port,
            end: port,
        }));
    }
    if let Some(length) = rule.suppress_prefix_length {
        attributes.push(RuleAttribute::SuppressPrefixLen(length));
    }
    match rule.action {
        RuleAction::Table(table) => {
            message.header.action = WireAction::ToTable;
            attributes.push(RuleAttribute::Table(table));
        }
        RuleAction::Unreachable => message.header.action = WireAction::Unreachable,
        RuleAction::Prohibit => message.header.action = WireAction::Prohibit,
    }
    message
}

fn decode(message: &RuleMessage, family: Family) -> Option<Rule> {
    let action = match message.header.action {
        WireAction::ToTable => RuleAction::Table(u32::from(message.header.table)),
        WireAction::Unreachable => RuleAction::Unreachable,
        WireAction::Prohibit => RuleAction::Prohibit,
        _ => return None,
    };
    let mut rule = Rule::all(family, 0, action);
    rule.invert = message.header.flags.contains(RuleFlags::Invert);
    let mut mark = Mark { value: 0, mask: 0 };
    if message.header.src_len != 0 || message.header.tos != 0 {
        return None;
    }
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(value) => mark.value = *value,
            RuleAttribute::FwMask(mask) => mark.mask = *mask,
            RuleAttribute::Destination(address) => {
                rule.destination = IpNet::new(*address, message.header.dst_len).ok();
            }
            RuleAttribute::IpProtocol(protocol) => {
                let number = i32::from(*protocol);
                let known = [Protocol::Tcp, Protocol::Udp]
                    .into_iter()
                    .find(|known| i32::from(known.number()) == number);
                rule.protocol = Some(known?);
            }
            RuleAttribute::SourcePortRange(range) => rule.source_port = Some(single(range)?),
            RuleAttribute::DestinationPortRange(range) => rule.destination_port = Some(single(range)?),
            RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) | RuleAttribute::UidRange(_) => return None,
            RuleAttribute::L3MDev(true) => return None,
            // All bits set is the kernel's way to say none.
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                rule.suppress_prefix_length = Some(*length);
            }
            RuleAttribute::Table(table) if matches!(rule.action, RuleAction::Table(_)) => {
                rule.action = RuleAction::Table(*table);
            }
            _ => {}
        }
    }
    rule.mark = (mark.mask != 0).then_some(mark);
    Some(rule)
}

fn single(range: &RulePortRange) -> Option<u16> {
    (range.start == range.end).then_some(range.start)
}
