//! The sizes that docs/WIRE.md gives: nothing that a member sends before packets flow is longer or shorter.

use std::time::Duration;

use coterie_proto::wire::datagram::{self, SEALED_OVERHEAD};
use coterie_sim::{arb::plain_layout, world::World};

/// Sections 3.6 and 5: header 8 or 16, body, tag 16.
const OFFER: usize = 8 + 1184 + 16;
const ANSWER: usize = 8 + 1088 + 16;
const CONFIRM: usize = 8 + 40 + 16;
const PROBE: usize = 16 + 9 + 16;

#[test]
fn the_messages_of_a_first_contact_have_the_documented_sizes() {
    let mut w = World::new(1, &plain_layout(&[&[0], &[0]]));
    w.run(Duration::from_secs(1));
    w.send(0, 1);
    let mut sizes = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        for (from, to) in [(0, 1), (1, 0)] {
            for kind in 1..=7 {
                let datagram = w.last_datagram(from, to, kind);
                sizes.extend(datagram.map(|d| {
                    (
                        from,
                        kind,
                        if kind == datagram::PROVISIONAL { d[1] } else { 0 },
                        d.len(),
                    )
                }));
            }
        }
        w.run(Duration::from_micros(1));
    }
    // A statement of these members: kind, era, enclave, tag, member, name, static key, two prefixes, serial, end, signature.
    let statement = 1 + 8 + 16 + 16 + 16 + (1 + 2) + 32 + (1 + (2 + 4) + (2 + 16)) + 8 + 8 + 64;
    let initiation = 8 + 32 + 48 + (8 + 1 + 1 + 1 + 8 + 8 + statement + 16) + 32;
    let response = 12 + 32 + (1 + 1 + 8 + 8 + statement + 16) + 32;
    let find = |from, kind, step| {
        sizes
            .iter()
            .filter(move |s| (s.0, s.1, s.2) == (from, kind, step))
            .map(|s| s.3)
            .collect::<Vec<_>>()
    };
    assert_eq!(find(0, datagram::INITIATION, 0), [initiation]);
    assert_eq!(find(1, datagram::RESPONSE, 0), [response]);
    assert_eq!(find(0, datagram::PROVISIONAL, 0), [OFFER]);
    assert_eq!(find(1, datagram::PROVISIONAL, 1), [ANSWER]);
    assert_eq!(find(0, datagram::PROVISIONAL, 2), [CONFIRM]);
    let sealed = find(0, datagram::SEALED, 0);
    assert!(sealed.contains(&PROBE), "{sealed:?}");
    assert!(find(1, datagram::SEALED, 0).contains(&PROBE), "its reply");
    assert_eq!(SEALED_OVERHEAD, 32);
    assert!([initiation, response, OFFER, ANSWER].iter().all(|n| *n <= 1232));
}

#[test]
fn a_question_is_1200_bytes_and_its_answer_no_longer() {
    let mut layout = plain_layout(&[&[0], &[0]]);
    layout.machines[0].traits.lazy = true;
    let mut w = World::new(1, &layout);
    w.run(Duration::from_secs(1));
    let sent = w.send(0, 1).expect("it is there");
    w.run(Duration::from_secs(1));
    assert!(w.delivered(sent).is_some());
    assert_eq!(
        w.last_datagram(0, 1, datagram::QUESTION).expect("it is there").len(),
        1200
    );
    assert!(w.last_datagram(1, 0, datagram::ANSWER).expect("it is there").len() < 1200);
    w.must_hold();
}
