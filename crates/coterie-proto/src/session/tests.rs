use super::*;
use crate::wire::datagram::{Datagram, parse};

fn pair(suite: Suite) -> (Session, Session) {
    let (a, b) = (Secret::new([1; 32]), Secret::new([2; 32]));
    let origin = |local_index, remote_index, initiator| Origin {
        local_index,
        remote_index,
        initiator,
        tag: CommunityTag::default(),
        epoch: 1,
        made: Instant::ZERO,
    };
    let make = |send_root, receive_root, origin| {
        Session::new(
            &Material {
                send_root,
                receive_root,
                suite,
                send_lanes: 2,
                receive_lanes: 2,
            },
            origin,
        )
    };
    (make(&a, &b, origin(10, 20, true)), make(&b, &a, origin(20, 10, false)))
}

fn seal(s: &mut Session, lane: u8, salt: u8, text: &[u8]) -> Vec<u8> {
    let mut out = vec![0; text.len() + SEALED_OVERHEAD];
    s.seal(lane, [salt; 4], text, &mut out).unwrap();
    out
}

fn open(s: &mut Session, datagram: &[u8]) -> Result<Vec<u8>, NotOpened> {
    let Ok(Datagram::Sealed(header)) = parse(datagram) else {
        panic!("not sealed")
    };
    s.open(header, &mut datagram.to_vec()).map(|t| t.to_vec())
}

#[test]
fn what_is_sealed_opens_once_in_each_suite_and_lane() {
    for suite in Suite::ALL {
        let (mut a, mut b) = pair(suite);
        for lane in 0..2 {
            let d = seal(&mut a, lane, 7, b"hello");
            assert_eq!(open(&mut b, &d).unwrap(), b"hello");
            assert_eq!(open(&mut b, &d), Err(NotOpened::Replayed));
        }
        let mut d = seal(&mut b, 0, 7, b"back");
        assert_eq!(open(&mut a, &d).unwrap(), b"back");
        d[1] = 2;
        assert_eq!(open(&mut a, &d), Err(NotOpened::UnknownLane));
    }
}

#[test]
fn a_forged_packet_changes_nothing() {
    let (mut a, mut b) = pair(Suite::Aes256Gcm);
    let good = seal(&mut a, 0, 7, b"hello");
    for bit in 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        if parse(&bad).is_ok() {
            assert!(open(&mut b, &bad).is_err(), "bit {bit}");
        }
    }
    assert_eq!(open(&mut b, &good).unwrap(), b"hello");
}

#[test]
fn the_last_counter_is_sealed_and_the_limit_is_not() {
    let (mut a, mut b) = pair(Suite::Aes256Gcm);
    assert!(!a.is_worn());
    a.set_counters(REKEY_AFTER_PACKETS);
    assert!(a.is_worn());
    a.set_counters(REFUSE_COUNTER - 1);
    let last = seal(&mut a, 0, 7, b"x");
    assert_eq!(open(&mut b, &last).unwrap(), b"x");
    assert_eq!(a.seal(0, [0; 4], b"x", &mut [0; 33]), Err(CounterSpent));
    let mut beyond = last;
    beyond[11] = 1;
    beyond[12..16].fill(0);
    assert_eq!(open(&mut b, &beyond), Err(NotOpened::CounterLimit));
}

#[test]
fn a_sender_that_runs_twice_is_noticed() {
    let (mut a, mut b) = pair(Suite::Aes256Gcm);
    let (mut twin, _) = pair(Suite::Aes256Gcm);
    assert!(open(&mut b, &seal(&mut a, 0, 1, b"one")).is_ok());
    assert!(open(&mut b, &seal(&mut a, 0, 1, b"two")).is_ok());
    let d = seal(&mut twin, 0, 2, b"other");
    let mut forged = d.clone();
    forged[20] ^= 1;
    assert_eq!(open(&mut b, &forged), Err(NotOpened::Replayed), "not authentic");
    assert_eq!(
        open(&mut b, &d),
        Err(NotOpened::Twin),
        "however many forgeries came before"
    );
}
