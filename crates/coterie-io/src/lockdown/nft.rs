//! Tables, chains and rules of nftables, by netlink: no program is needed for it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's messages and attributes are open sets, of which we read what we know and leave the rest"
)]

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, Nla};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, ExpressionAttribute, Expressions, Hook as HookAttribute, HookNumber, ListAttribute,
    NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rustix::net::netlink;

use crate::netlink::Netlink;

use super::Counter;

mod expression;

pub(super) use expression::Rule;

/// The kinds of table that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// Frames at an interface.
    Netdev,
}

impl Family {
    const ALL: [Self; 2] = [Self::Inet, Self::Netdev];

    fn header(self) -> NetfilterHeader {
        let family = match self {
            Self::Inet => NetfilterProtoFamily::Inet,
            Self::Netdev => NetfilterProtoFamily::NetDev,
        };
        NetfilterHeader::new(family, 0, 0)
    }
}

/// A chain, and all rules in it.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) family: Family,
    pub(super) name: String,
    /// Where the kernel calls it; `None`: only from other chains.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// A place where the kernel calls a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) number: u32,
    pub(super) device: Option<String>,
}

impl Hook {
    pub(super) const INPUT: u32 = 1;
    pub(super) const FORWARD: u32 = 2;
    pub(super) const OUTPUT: u32 = 3;
    /// Of an interface, not of IP: numbers are by family.
    pub(super) const INGRESS: u32 = 0;
    pub(super) const EGRESS: u32 = 1;
}

/// The firewall of the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Nftables {
    netlink: Netlink,
}

/// One step of a change, with what to call it in an error.
struct Step {
    family: Family,
    message: NfTablesMessage,
    flags: u16,
    what: String,
}

impl Nftables {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: Netlink::open(Some(netlink::NETFILTER))?,
        })
    }

    /// Makes the tables `table` anew with these chains, in one transaction.
    pub(super) fn replace(&mut self, table: &str, chains: &[Chain]) -> io::Result<()> {
        let mut steps = Vec::new();
        for family in Family::ALL {
            steps.extend([
                new_table(family, table),
                delete_table(family, table),
                new_table(family, table),
            ]);
        }
        steps.extend(chains.iter().map(|chain| new_chain(table, chain)));
        steps.extend(
            chains
                .iter()
                .flat_map(|chain| chain.rules.iter().map(|rule| new_rule(table, chain, rule))),
        );
        self.commit(steps)
    }

    /// Removes the tables `table`, whether they are there or not.
    pub(super) fn remove(&mut self, table: &str) -> io::Result<()> {
        let steps = Family::ALL.map(|family| [new_table(family, table), delete_table(family, table)]);
        self.commit(steps.into_iter().flatten().collect())
    }

    /// How what is in the kernel differs from `chain`.
    pub(super) fn differences(&mut self, table: &str, chain: &Chain) -> io::Result<Vec<String>> {
        let attributes = vec![
            ChainAttribute::Table(table.into()),
            ChainAttribute::Name(chain.name.clone()),
        ];
        let asked = NfTablesMessage::GetChain(ChainMessage { attributes });
        let found = match self.netlink.get(NetfilterMessage::new(chain.family.header(), asked)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            answer => answer?,
        };
        let Some(NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(found))) = found.map(|found| found.inner)
        else {
            return Ok(vec![format!("no chain {}", chain.name)]);
        };
        if !has_hook(&found, chain.hook.as_ref()) {
            return Ok(vec![format!("chain {} is not called where it should be", chain.name)]);
        }
        let found = self.rules(table, chain.family, Some(&chain.name))?;
        let longest = found.len().max(chain.rules.len());
        Ok((0..longest)
            .filter_map(|i| difference(&chain.name, chain.rules.get(i), found.get(i)))
            .collect())
    }

    /// Counters of the rules that have one, added up by name.
    pub(super) fn counters(&mut self, table: &str) -> io::Result<Vec<Counter>> {
        let mut counters: Vec<Counter> = Vec::new();
        for family in Family::ALL {
            for rule in self.rules(table, family, None)? {
                let (Some(name), Some((packets, bytes))) = (rule.name(), rule.counted()) else {
                    continue;
                };
                match counters.iter_mut().find(|counter| counter.rule == name) {
                    Some(counter) => {
                        counter.packets += packets;
                        counter.bytes += bytes;
                    }
                    None => counters.push(Counter {
                        rule: name,
                        packets,
                        bytes,
                    }),
                }
            }
        }
        Ok(counters)
    }

    fn rules(&mut self, table: &str, family: Family, chain: Option<&str>) -> io::Result<Vec<FoundRule>> {
        let mut attributes = vec![RuleAttribute::Table(table.into())];
        attributes.extend(chain.map(|chain| RuleAttribute::Chain(chain.into())));
        let asked = NfTablesMessage::GetRule(RuleMessage { attributes });
        let found = self.netlink.dump(NetfilterMessage::new(family.header(), asked))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message.inner {
                NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) => Some(FoundRule(rule.attributes)),
                _ => None,
            })
            .filter(|rule| rule.belongs_to(table, chain))
            .collect())
    }

    /// Carries out all steps or none.
    fn commit(&mut self, steps: Vec<Step>) -> io::Result<()> {
        /// Number of nftables among netfilter's subsystems, which the batch is for.
        const NFTABLES: u16 = 10;
        let edge = |edge: ControlMessage| {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES);
            (NetfilterMessage::new(header, edge), NLM_F_REQUEST)
        };
        let names: Vec<String> = steps.iter().map(|step| step.what.clone()).collect();
        let last = steps.len() - 1;
        let steps = steps.into_iter().enumerate().map(|(i, step)| {
            // The answer to the last step tells that the kernel went through all of them.
            let ack = if i == last { NLM_F_ACK } else { 0 };
            (
                NetfilterMessage::new(step.family.header(), step.message),
                NLM_F_REQUEST | ack | step.flags,
            )
        });
        let batch = std::iter::once(edge(ControlMessage::BatchBegin)).chain(steps);
        let first = self
            .netlink
            .send(batch.chain(std::iter::once(edge(ControlMessage::BatchEnd))))?;

        let outcomes = self.netlink.outcomes::<NetfilterMessage>()?;
        let confirmed = first.wrapping_add(u32::try_from(names.len()).map_err(io::Error::other)?);
        match outcomes.iter().find(|(_, errno)| *errno != 0) {
            None if outcomes.contains(&(confirmed, 0)) => Ok(()),
            None => Err(io::Error::other(
                "nftables: the kernel did not answer; its nf_tables module may be missing",
            )),
            Some(&(sequence, errno)) => {
                let step = usize::try_from(sequence.wrapping_sub(first))
                    .unwrap_or(0)
                    .checked_sub(1);
                let what = step
                    .and_then(|step| names.get(step))
                    .map_or("the whole change", String::as_str);
                Err(explain(what, &io::Error::from_raw_os_error(errno)))
            }
        }
    }
}

fn explain(what: &str, error: &io::Error) -> io::Error {
    let (kind, why) = match error.raw_os_error() {
        Some(libc::EPERM) => (io::ErrorKind::PermissionDenied, "it needs CAP_NET_ADMIN"),
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => (
            io::ErrorKind::Unsupported,
            "this kernel lacks what it takes (nf_tables with inet, netdev, reject and ct)",
        ),
        _ => (error.kind(), "the kernel refused"),
    };
    io::Error::new(kind, format!("nftables: cannot set {what}: {why} ({error})"))
}

fn new_table(family: Family, table: &str) -> Step {
    let attributes = vec![TableAttribute::Name(table.into())];
    let message = NfTablesMessage::NewTable(TableMessage { attributes });
    Step {
        family,
        message,
        flags: NLM_F_CREATE,
        what: format!("table {table}"),
    }
}

fn delete_table(family: Family, table: &str) -> Step {
    let attributes = vec![TableAttribute::Name(table.into())];
    let message = NfTablesMessage::DeleteTable(TableMessage { attributes });
    Step {
        family,
        message,
        flags: 0,
        what: format!("table {table} to nothing"),
    }
}

fn new_chain(table: &str, chain: &Chain) -> Step {
    const ACCEPT: u32 = 1;
    let mut attributes = vec![
        ChainAttribute::Table(table.into()),
        ChainAttribute::Name(chain.name.clone()),
    ];
    if let Some(hook) = &chain.hook {
        let mut place = vec![
            HookAttribute::Number(HookNumber::Other(hook.number)),
            HookAttribute::Priority(0),
        ];
        place.extend(hook.device.clone().map(HookAttribute::NetDeviceName));
        attributes.push(ChainAttribute::Hook(place));
        attributes.push(ChainAttribute::Type("filter".into()));
        attributes.push(ChainAttribute::Policy(ACCEPT));
    }
    let message = NfTablesMessage::NewChain(ChainMessage { attributes });
    Step {
        family: chain.family,
        message,
        flags: NLM_F_CREATE,
        what: format!("chain {}", chain.name),
    }
}

fn new_rule(table: &str, chain: &Chain, rule: &Rule) -> Step {
    let attributes = vec![
        RuleAttribute::Table(table.into()),
        RuleAttribute::Chain(chain.name.clone()),
        RuleAttribute::Expressions(rule.expressions().iter().cloned().map(ListAttribute::from).collect()),
        RuleAttribute::UserData(comment(rule.name())),
    ];
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    let what = format!("rule {} of chain {}", rule.name(), chain.name);
    Step {
        family: chain.family,
        message,
        flags: NLM_F_CREATE | NLM_F_APPEND,
        what,
    }
}

/// A comment in the form that `nft list` shows: kind 0, length, and a string that ends with a zero byte.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let text = &text.as_bytes()[..usize::from(length) - 1];
    [&[0, length], text, &[0]].concat()
}

fn has_hook(found: &ChainMessage, hook: Option<&Hook>) -> bool {
    let place = found.attributes.iter().find_map(|attribute| match attribute {
        ChainAttribute::Hook(place) => Some(place),
        _ => None,
    });
    match (place, hook) {
        (None, None) => true,
        (Some(place), Some(hook)) => {
            let number = place
                .iter()
                .any(|part| matches!(part, HookAttribute::Number(n) if u32::from(*n) == hook.number));
            let device = hook
                .device
                .as_ref()
                .is_none_or(|device| place.iter().any(|part| names_device(part, device)));
            let policy =
                |attribute: &ChainAttribute| matches!(attribute, ChainAttribute::Policy(policy) if *policy != 1);
            number && device && !found.attributes.iter().any(policy)
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn names_device(part: &HookAttribute, device: &str) -> bool {
    match part {
        HookAttribute::NetDeviceName(name) => name == device,
        HookAttribute::NetDevices(names) => names
            .iter()
            .any(|name| value_of(name).strip_suffix(b"\0") == Some(device.as_bytes())),
        _ => false,
    }
}

fn difference(chain: &str, wanted: Option<&Rule>, found: Option<&FoundRule>) -> Option<String> {
    match (wanted, found) {
        (Some(wanted), Some(found)) if found.does(wanted) => None,
        (Some(wanted), Some(found)) => {
            let other = found.name().unwrap_or_else(|| "a rule that is not ours".to_owned());
            Some(format!("chain {chain} has {other} where {} belongs", wanted.name()))
        }
        (Some(wanted), None) => Some(format!("chain {chain} has no {}", wanted.name())),
        (None, Some(_)) => Some(format!("chain {chain} goes on after its last rule")),
        (None, None) => None,
    }
}

/// A rule as the kernel lists it.
#[derive(Debug)]
struct FoundRule(Vec<RuleAttribute>);

impl FoundRule {
    fn belongs_to(&self, table: &str, chain: Option<&str>) -> bool {
        self.0.iter().all(|attribute| match attribute {
            RuleAttribute::Table(found) => found == table,
            RuleAttribute::Chain(found) => chain.is_none_or(|chain| found == chain),
            _ => true,
        })
    }

    fn name(&self) -> Option<String> {
        self.0.iter().find_map(|attribute| match attribute {
            RuleAttribute::UserData(bytes) => {
                let text = bytes.strip_prefix(&[0])?.get(1..)?.strip_suffix(&[0])?;
                String::from_utf8(text.to_vec()).ok()
            }
            _ => None,
        })
    }

    fn expressions(&self) -> Vec<&Expressions> {
        let mut expressions = Vec::new();
        for attribute in &self.0 {
            let RuleAttribute::Expressions(list) = attribute else {
                continue;
            };
            for element in list {
                let ListAttribute::Element(parts) = element else {
                    continue;
                };
                expressions.extend(parts.iter().filter_map(|part| match part {
                    ExpressionAttribute::Data(expression) => Some(expression),
                    _ => None,
                }));
            }
        }
        expressions
    }

    /// Whether it has the expressions of `rule` and no others.
    fn does(&self, rule: &Rule) -> bool {
        let found = self.expressions();
        let wanted = rule.expressions();
        found.len() == wanted.len()
            && found
                .iter()
                .zip(wanted)
                .all(|(found, wanted)| expression::is(found, wanted))
    }

    /// Packets and bytes of its counter.
    fn counted(&self) -> Option<(u64, u64)> {
        const BYTES: u16 = 1;
        const PACKETS: u16 = 2;
        let attributes = self.expressions().into_iter().find_map(|expression| match expression {
            Expressions::Other {
                expression_type,
                attributes,
            } if expression_type == "counter" => Some(attributes),
            _ => None,
        })?;
        let number = |kind| {
            let attribute = attributes.iter().find(|attribute| attribute.kind() == kind)?;
            Some(u64::from_be_bytes(value_of(attribute).try_into().ok()?))
        };
        Some((number(PACKETS)?, number(BYTES)?))
    }
}

/// The bytes of an attribute, without its header.
fn value_of(attribute: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    value
}
