//! What a rule is made of: loads into the first register, comparisons with it, and a verdict.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Cmp, DataAttribute, Expressions, Immediate, Meta, MetaKey, Operator, Payload, Register, Verdict, VerdictAttribute,
};

/// A rule, built from its conditions to what it does.
#[derive(Debug, Clone)]
pub(in crate::lockdown) struct Rule {
    name: String,
    expressions: Vec<Expressions>,
}

const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Where a packet's bytes are counted from.
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

impl Rule {
    /// A rule that matches everything and does nothing.
    pub(in crate::lockdown) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            expressions: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn expressions(&self) -> &[Expressions] {
        &self.expressions
    }

    /// The interface named by `key` is `name`.
    pub(in crate::lockdown) fn interface(self, key: MetaKey, name: &str) -> Self {
        let mut padded = [0; 16];
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        self.meta(key, &padded)
    }

    /// The packet is of this kind of IP.
    pub(in crate::lockdown) fn family(self, family: u8) -> Self {
        self.meta(MetaKey::Nfproto, &[family])
    }

    /// The frame is of this type, and the kernel, whom the sender may have told otherwise, takes it for that.
    pub(in crate::lockdown) fn frame(self, ethertype: u16) -> Self {
        let bytes = ethertype.to_be_bytes();
        self.meta(MetaKey::EtherTypeProtocol, &bytes)
            .payload(LINK_HEADER, 12, &bytes)
    }

    /// These bytes are at `offset` of the IP header.
    pub(in crate::lockdown) fn network(self, offset: u32, bytes: &[u8]) -> Self {
        self.payload(NETWORK_HEADER, offset, bytes)
    }

    /// The packet carries this protocol.
    pub(in crate::lockdown) fn transport(self, protocol: u8) -> Self {
        self.meta(MetaKey::L4Proto, &[protocol])
    }

    /// What comes after the IP header begins with this byte.
    pub(in crate::lockdown) fn first_byte(self, byte: u8) -> Self {
        self.payload(TRANSPORT_HEADER, 0, &[byte])
    }

    /// The TCP or UDP header has this source port.
    pub(in crate::lockdown) fn source_port(self, port: u16) -> Self {
        self.payload(TRANSPORT_HEADER, 0, &port.to_be_bytes())
    }

    /// The TCP or UDP header has this destination port.
    pub(in crate::lockdown) fn destination_port(self, port: u16) -> Self {
        self.payload(TRANSPORT_HEADER, 2, &port.to_be_bytes())
    }

    /// The packet has this mark.
    pub(in crate::lockdown) fn marked(self, mark: u32) -> Self {
        self.meta(MetaKey::Mark, &mark.to_ne_bytes())
    }

    /// The packet belongs to a connection in which both sides have spoken.
    pub(in crate::lockdown) fn established(self) -> Self {
        const DESTINATION_REGISTER: u16 = 1;
        const KEY: u16 = 2;
        const STATE: u32 = 0;
        const ESTABLISHED: u32 = 2;
        let attributes = vec![number(DESTINATION_REGISTER, Register::Reg1.into()), number(KEY, STATE)];
        let load = Expressions::Other {
            expression_type: "ct".into(),
            attributes,
        };
        self.with(load).compare(&ESTABLISHED.to_ne_bytes())
    }

    /// Counts the packet.
    pub(in crate::lockdown) fn count(self) -> Self {
        self.with(Expressions::Other {
            expression_type: "counter".into(),
            attributes: Vec::new(),
        })
    }

    /// Gives the packet this mark.
    pub(in crate::lockdown) fn set_mark(self, mark: u32) -> Self {
        self.with(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Reg1),
            Immediate::Data(DataAttribute::Value(mark.to_ne_bytes().to_vec())),
        ]))
        .with(Expressions::Meta(vec![
            Meta::Key(MetaKey::Mark),
            Meta::SourceRegister(Register::Reg1),
        ]))
    }

    /// Lets the packet through.
    pub(in crate::lockdown) fn accept(self) -> Self {
        self.verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))])
    }

    /// Lets the packet vanish.
    pub(in crate::lockdown) fn drop(self) -> Self {
        self.verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))])
    }

    /// Goes on in another chain, and comes back if that decides nothing.
    pub(in crate::lockdown) fn jump(self, chain: &str) -> Self {
        self.verdict(vec![
            VerdictAttribute::Code(Verdict::Jump),
            VerdictAttribute::Chain(chain.to_owned()),
        ])
    }

    /// Drops the packet, and ends the connection for its sender.
    pub(in crate::lockdown) fn reject_with_reset(self) -> Self {
        const TCP_RESET: u32 = 1;
        self.reject(vec![number(REJECT_KIND, TCP_RESET)])
    }

    /// Drops the packet, and tells its sender that it is prohibited.
    pub(in crate::lockdown) fn reject_as_prohibited(self) -> Self {
        const UNREACHABLE: u32 = 2;
        const CODE: u16 = 2;
        const PROHIBITED: u8 = 3;
        self.reject(vec![
            number(REJECT_KIND, UNREACHABLE),
            DefaultNla::new(CODE, vec![PROHIBITED]),
        ])
    }

    fn reject(self, attributes: Vec<DefaultNla>) -> Self {
        self.with(Expressions::Other {
            expression_type: "reject".into(),
            attributes,
        })
    }

    fn verdict(self, verdict: Vec<VerdictAttribute>) -> Self {
        self.with(Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(DataAttribute::Verdict(verdict)),
        ]))
    }

    fn meta(self, key: MetaKey, value: &[u8]) -> Self {
        self.with(Expressions::Meta(vec![
            Meta::Key(key),
            Meta::DestinationRegister(Register::Reg1),
        ]))
        .compare(value)
    }

    fn payload(self, base: u32, offset: u32, value: &[u8]) -> Self {
        let length = u32::try_from(value.len()).expect("fields of headers are at most 16 bytes");
        self.with(Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(length),
        ]))
        .compare(value)
    }

    fn compare(self, value: &[u8]) -> Self {
        self.with(Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(value.to_vec())),
        ]))
    }

    fn with(mut self, expression: Expressions) -> Self {
        self.expressions.push(expression);
        self
    }
}

const REJECT_KIND: u16 = 1;

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

/// Whether `found`, as a kernel lists it, is `wanted`: of the same kind, with at least its attributes. Kernels list
/// defaults and counters besides.
pub(super) fn is(found: &Expressions, wanted: &Expressions) -> bool {
    fn all<T: PartialEq>(found: &[T], wanted: &[T]) -> bool {
        wanted.iter().all(|attribute| found.contains(attribute))
    }
    match (found, wanted) {
        (Expressions::Cmp(found), Expressions::Cmp(wanted)) => all(found, wanted),
        (Expressions::Immediate(found), Expressions::Immediate(wanted)) => all(found, wanted),
        (Expressions::Meta(found), Expressions::Meta(wanted)) => all(found, wanted),
        (Expressions::Payload(found), Expressions::Payload(wanted)) => all(found, wanted),
        (
            Expressions::Other {
                expression_type: found_type,
                attributes: found,
            },
            Expressions::Other {
                expression_type,
                attributes,
            },
        ) => found_type == expression_type && all(found, attributes),
        _ => false,
    }
}
