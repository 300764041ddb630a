//! What happened last, for people: a sequence diagram in mermaid's language, and one line a datagram.

use std::collections::VecDeque;

use coterie_proto::wire::datagram::{self, Datagram};

use crate::clock::Moment;

/// Rungs that are kept unless somebody wants more.
const RUNGS: usize = 80;

/// A bounded memory of what happened.
#[derive(Debug)]
pub struct Ladder {
    rungs: VecDeque<String>,
    /// Rungs that are kept.
    pub capacity: usize,
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            rungs: VecDeque::new(),
            capacity: RUNGS,
        }
    }
}

impl Ladder {
    /// A datagram went from one to another, and what became of it.
    pub fn datagram(&mut self, now: Moment, from: &str, to: &str, bytes: &[u8], fate: &str) {
        let arrow = if fate.is_empty() { "->>" } else { "--x" };
        let gap = if fate.is_empty() { "" } else { ", " };
        self.push(format!("    {from}{arrow}{to}: {now} {}{gap}{fate}", describe(bytes)));
    }

    /// Something happened to a host.
    pub fn note(&mut self, now: Moment, host: &str, what: &str) {
        self.push(format!("    Note over {host}: {now} {what}"));
    }

    fn push(&mut self, rung: String) {
        self.rungs.push_back(rung);
        if self.rungs.len() > self.capacity {
            self.rungs.pop_front();
        }
    }

    /// The diagram.
    #[must_use]
    pub fn diagram(&self) -> String {
        let mut out = String::from("sequenceDiagram\n");
        for rung in &self.rungs {
            out.push_str(rung);
            out.push('\n');
        }
        out
    }
}

/// A datagram's type and indices, as far as they are clear.
#[must_use]
pub fn describe(bytes: &[u8]) -> String {
    let len = bytes.len();
    match datagram::parse(bytes) {
        Ok(Datagram::Initiation { sender }) => format!("initiation from {sender:08x}, {len} B"),
        Ok(Datagram::Response { sender, receiver }) => format!("response from {sender:08x} to {receiver:08x}, {len} B"),
        Ok(Datagram::Cookie { receiver }) => format!("cookie to {receiver:08x}"),
        Ok(Datagram::Provisional { step, receiver }) => format!("{step:?} to {receiver:08x}"),
        Ok(Datagram::Sealed(h)) => {
            let salt = u32::from_be_bytes(h.salt);
            format!(
                "sealed to {:08x} lane {} counter {} salt {salt:08x}, {len} B",
                h.receiver, h.lane, h.counter
            )
        }
        Ok(Datagram::Question) => format!("question, {len} B"),
        Ok(Datagram::Answer) => format!("answer, {len} B"),
        Err(reason) => format!("{} ({len} B)", reason.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_bounded_and_ends_with_the_newest() {
        let mut l = Ladder::default();
        for n in 0..500u32 {
            l.datagram(Moment::START, "a", "b", &n.to_be_bytes(), "lost");
        }
        l.note(Moment::START, "a", "crash");
        let text = l.diagram();
        assert_eq!(text.lines().count(), RUNGS + 1);
        assert!(text.lines().last().unwrap().contains("crash"));
    }
}
