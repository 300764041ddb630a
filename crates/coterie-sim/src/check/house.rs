//! A node's books: what went in is what came out, waits, or was dropped for a reason; and its memory is bounded.

use coterie_proto::{Node, node::Held};

use super::{Breach, Promise};

/// Packets that may wait for one peer.
const QUEUE: usize = 64;

/// Compares a node's counts with what was put in (`given`) and taken out (`sealed`).
///
/// # Errors
/// They do not agree.
pub fn balance(node: &Node, given: u64, sealed: u64) -> Result<(), Breach> {
    let c = node.counts();
    let waiting = u64::try_from(node.waiting()).unwrap_or(u64::MAX);
    books(
        (given, sealed),
        (c.sent, c.delivered, c.handled),
        (c.drops.total(), waiting),
    )
}

fn books(
    (given, sealed): (u64, u64),
    (sent, delivered, handled): (u64, u64, u64),
    (dropped, waiting): (u64, u64),
) -> Result<(), Breach> {
    if sent != sealed {
        let what = format!("the node counted {sent} packets sealed and gave {sealed}");
        return Err(Breach::new(Promise::Accounting, what));
    }
    let accounted = sent + delivered + handled + dropped + waiting;
    if accounted != given {
        let what = format!(
            "{given} packets and datagrams went in; {sent} sent, {delivered} delivered, {handled} handled, {dropped} dropped, \
             {waiting} waiting make {accounted}"
        );
        return Err(Breach::new(Promise::Accounting, what));
    }
    Ok(())
}

/// Compares what a node holds with what it may.
///
/// # Errors
/// Something is above its bound.
pub fn bounds(held: &Held, waiting: usize) -> Result<(), Breach> {
    let limits = [
        ("packets waiting", waiting, QUEUE * held.peers),
        ("receiver indices", held.indices, held.slots),
        ("macs seen", held.seen, 8192),
        ("questions answered", held.answered, 1024),
        ("questions asked", held.asked, 256),
        ("pings waiting", held.pings, 64),
        ("peers alive", held.live, held.peers),
        ("deadlines", held.deadlines, held.live),
    ];
    for (what, number, limit) in limits {
        if number > limit {
            return Err(Breach::new(
                Promise::Bounds,
                format!("{number} {what}, at most {limit} are allowed"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_that_do_not_balance_are_noticed() {
        assert!(books((10, 4), (4, 3, 1), (1, 1)).is_ok());
        assert!(books((11, 4), (4, 3, 1), (1, 1)).is_err(), "one vanished");
        assert!(books((10, 3), (4, 3, 1), (1, 1)).is_err(), "one was never handed out");
    }

    #[test]
    fn memory_above_its_bound_is_noticed() {
        let held = Held {
            peers: 2,
            live: 1,
            slots: 3,
            indices: 3,
            ..Held::default()
        };
        assert!(bounds(&held, 128).is_ok());
        assert!(bounds(&held, 129).is_err());
        assert!(
            bounds(&Held { indices: 4, ..held }, 0).is_err(),
            "an index that names nothing"
        );
        assert!(bounds(&Held { deadlines: 2, ..held }, 0).is_err());
    }
}
