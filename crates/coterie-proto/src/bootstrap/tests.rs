use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{Secret, SeededEntropy, aead::Suite, dh::KeyPair};
use coterie_model::{CommunityTag, EpochKey, Instant, UnixTime};

use super::*;
use crate::{DropReason, Outcome, handshake::payload::Suites, wire::control::Control};

const VISITOR: &str = "192.0.2.9:5000";
const TOKEN: u8 = 0x70;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn keys(n: u8) -> KeyPair {
    KeyPair::from_private(Secret::new([n; 32]))
}

fn suites() -> (Suites, Suite) {
    (Suites::new(&Suite::ALL).unwrap(), Suite::Aes256Gcm)
}

fn knock(token: u8, door: u8) -> EpochKey {
    EpochKey {
        tag: CommunityTag([token; 16]),
        epoch: 1,
        key: Secret::new([token ^ door; 32]),
    }
}

fn caller() -> Caller {
    Caller {
        token: CommunityTag([TOKEN; 16]),
        static_key: *keys(0x55).public(),
    }
}

fn entropy(n: u64) -> Box<SeededEntropy> {
    Box::new(SeededEntropy::from_number(n))
}

fn door(n: u8) -> Door {
    let mut door = Door::new(keys(n), suites(), vec![], entropy(u64::from(n)));
    door.handle_knocks(vec![Knock {
        key: knock(TOKEN, n),
        not_after: UnixTime(1000),
    }]);
    door
}

fn visitor(token: u8, doors: &[u8], request: Vec<u8>) -> Visitor {
    visitor_of(0x55, token, doors, request)
}

/// The machine with private key `own`.
fn visitor_of(own: u8, token: u8, doors: &[u8], request: Vec<u8>) -> Visitor {
    let visit = Visit {
        keys: keys(own),
        rendezvous: doors
            .iter()
            .map(|n| Rendezvous {
                endpoint: SocketAddr::from(([192, 0, 2, *n], 4747)),
                static_key: *keys(*n).public(),
                knock: knock(token, *n),
            })
            .collect(),
        suites: suites(),
        request,
        counter: 1,
    };
    Visitor::new(visit, entropy(99), Instant::ZERO)
}

/// One visitor, one door, and a wire between them that loses what `lost` says of the datagram with that number.
struct Play<'a> {
    now: Instant,
    visitor: Visitor,
    doors: Vec<(SocketAddr, Door)>,
    lost: Box<dyn FnMut(usize) -> bool + 'a>,
    sent: Vec<Vec<u8>>,
    served: Vec<Request>,
    answer: Vec<u8>,
    /// The server makes a member of whoever applies: nobody else is to be let in by the token, and the answer is on its way.
    is_spent_at_once: bool,
    got: Option<Vec<u8>>,
}

impl<'a> Play<'a> {
    fn new(visitor: Visitor, doors: &[u8], answer: Vec<u8>) -> Self {
        Self {
            now: Instant::ZERO,
            visitor,
            doors: doors
                .iter()
                .map(|n| (SocketAddr::from(([192, 0, 2, *n], 4747)), door(*n)))
                .collect(),
            lost: Box::new(|_| false),
            sent: vec![],
            served: vec![],
            answer,
            is_spent_at_once: false,
            got: None,
        }
    }

    fn loses(&mut self) -> bool {
        (self.lost)(self.sent.len())
    }

    /// Everything that follows at once.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(out) = self.visitor.poll_transmit() {
                quiet = false;
                let lost = self.loses();
                self.sent.push(out.bytes.clone());
                if let Some((_, door)) = self.doors.iter_mut().find(|(a, _)| *a == out.to)
                    && !lost
                {
                    let mut bytes = out.bytes;
                    door.handle_outside(&mut bytes, at(VISITOR), |_| false, UnixTime(1), self.now);
                }
            }
            for n in 0..self.doors.len() {
                while let Some(request) = self.doors[n].1.poll_request() {
                    if self.is_spent_at_once {
                        self.doors[n].1.handle_knocks(vec![]);
                    }
                    self.doors[n].1.answer(request.visit, self.answer.clone(), self.now);
                    self.served.push(request);
                }
                while let Some(out) = self.doors[n].1.poll_transmit() {
                    quiet = false;
                    assert_eq!(out.to, at(VISITOR));
                    assert!(out.bytes.len() <= crate::wire::MAX_CONTROL_DATAGRAM);
                    let lost = self.loses();
                    self.sent.push(out.bytes.clone());
                    if lost {
                        continue;
                    }
                    let mut bytes = out.bytes;
                    let (_, answer) = self.visitor.handle_outside(&mut bytes, self.now);
                    if answer.is_some() {
                        self.got = answer;
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Lives until the answer is there; how long that took.
    fn run(&mut self, longest: Duration) -> Option<Duration> {
        self.visitor.handle_timeout(self.now);
        self.settle();
        while self.got.is_none() {
            let doors = self.doors.iter().filter_map(|(_, d)| d.poll_timeout());
            let next = doors.chain(self.visitor.poll_timeout()).min()?;
            self.now = next.max(self.now + Duration::from_millis(1));
            if self.now.since_boot() > longest {
                return None;
            }
            self.visitor.handle_timeout(self.now);
            for (_, door) in &mut self.doors {
                door.handle_timeout(self.now);
            }
            self.settle();
        }
        Some(self.now.since_boot())
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

#[test]
fn a_visit_carries_a_request_in_and_an_answer_out_without_a_wait() {
    let mut play = Play::new(visitor(TOKEN, &[1], bytes(3000)), &[1], bytes(150_000));
    assert_eq!(play.run(Duration::from_secs(1)), Some(Duration::ZERO));
    assert_eq!(play.got, Some(bytes(150_000)));
    assert_eq!(play.served.len(), 1);
    let request = &play.served[0];
    assert_eq!((&request.bytes, request.token.0), (&bytes(3000), [TOKEN; 16]));
    assert_eq!(request.static_key, *keys(0x55).public());
    assert_eq!(play.doors[0].1.visits(), 0, "the visit is over");
    assert_eq!(play.visitor.poll_timeout(), None);
    assert_eq!(play.doors[0].1.poll_record(), Some(Record::Accepted(caller(), 1)));
}

#[test]
fn loss_only_delays_a_visit() {
    for seed in 0..200 {
        let mut e = SeededEntropy::from_number(seed);
        let mut play = Play::new(visitor(TOKEN, &[1], bytes(5000)), &[1], bytes(60_000));
        play.lost = Box::new(move |_| {
            let mut r = [0];
            coterie_crypto::Entropy::fill(&mut e, &mut r);
            r[0] < 77
        });
        let took = play.run(Duration::from_secs(60));
        assert!(took.is_some(), "seed {seed}: {} datagrams", play.sent.len());
        assert_eq!(play.got, Some(bytes(60_000)));
    }
}

#[test]
fn whoever_is_not_there_is_passed_over() {
    let mut play = Play::new(visitor(TOKEN, &[1, 2], bytes(3000)), &[2], bytes(3000));
    let took = play.run(Duration::from_secs(10)).unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(play.visitor.at().endpoint, at("192.0.2.2:4747"));
}

#[test]
fn without_the_token_the_door_is_a_wall() {
    let mut play = Play::new(visitor(TOKEN + 1, &[1], bytes(3000)), &[1], vec![1]);
    assert_eq!(play.run(Duration::from_secs(30)), None);
    assert!(play.sent.iter().all(|d| d[0] == 1), "nothing but its own calls");
    let mut d = door(1);
    for n in 0..1000u16 {
        let mut noise = bytes(usize::from(n) + 168);
        noise[..4].copy_from_slice(&[1, 0, 0, 0]);
        assert_eq!(
            d.handle_outside(&mut noise, at(VISITOR), |_| false, UnixTime(1), Instant::ZERO),
            None
        );
    }
    assert!(d.poll_transmit().is_none());
}

#[test]
fn a_call_is_answered_once_also_after_a_restart_and_not_after_the_tokens_end() {
    let mut v = visitor(TOKEN, &[1], vec![1]);
    v.handle_timeout(Instant::ZERO);
    let call = v.poll_transmit().unwrap().bytes;
    let knocks = |d: &mut Door, bytes: &[u8], time| {
        d.handle_outside(
            &mut bytes.to_vec(),
            at("192.0.2.66:1"),
            |_| false,
            UnixTime(time),
            Instant::ZERO,
        )
    };
    let mut d = door(1);
    assert_eq!(
        knocks(&mut d, &call, 1000),
        Some(Outcome::Dropped(DropReason::EpochClosed))
    );
    assert!(d.poll_transmit().is_none());
    let mut d = door(1);
    assert_eq!(knocks(&mut d, &call, 1), Some(Outcome::Handled));
    assert!(d.poll_transmit().is_some());
    assert_eq!(knocks(&mut d, &call, 1), Some(Outcome::Dropped(DropReason::Replayed)));
    assert_eq!(d.poll_record(), Some(Record::Accepted(caller(), 1)));
    let mut restarted = Door::new(keys(1), suites(), [(caller(), 1)], entropy(7));
    restarted.handle_knocks(vec![Knock {
        key: knock(TOKEN, 1),
        not_after: UnixTime(1000),
    }]);
    assert_eq!(
        knocks(&mut restarted, &call, 1),
        Some(Outcome::Dropped(DropReason::Replayed))
    );
    assert!(restarted.poll_transmit().is_none() && d.poll_transmit().is_none());
}

/// Everything that is on its way between one visitor and its door comes; gives what the visitor was answered.
fn exchange(v: &mut Visitor, d: &mut Door, now: Instant) -> Option<Vec<u8>> {
    let mut got = None;
    loop {
        let mut quiet = true;
        while let Some(mut out) = v.poll_transmit() {
            quiet = false;
            d.handle_outside(&mut out.bytes, at(VISITOR), |_| false, UnixTime(1), now);
        }
        while let Some(mut out) = d.poll_transmit() {
            quiet = false;
            got = v.handle_outside(&mut out.bytes, now).1.or(got);
        }
        if quiet {
            return got;
        }
    }
}

/// A packet of IP from one inside address to another, with nothing in it.
fn packet(destination: std::net::IpAddr) -> Vec<u8> {
    match destination {
        std::net::IpAddr::V4(to) => {
            let mut packet = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 9];
            packet.extend(to.octets());
            packet
        }
        std::net::IpAddr::V6(to) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
            packet.extend([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            packet.extend(to.octets());
            packet
        }
    }
}

/// Under the keys of a visit one request goes in: no packet, to whichever inside address, and nothing of what members say to each
/// other; none of it has an effect, and no other node takes it.
#[test]
fn a_visitor_reaches_nothing_but_the_end_of_its_request() {
    let (mut v, mut d, now) = (visitor(TOKEN, &[1], bytes(3000)), door(1), Instant::ZERO);
    assert_eq!(v.sealed(b"x"), None, "outside there are no keys");
    v.handle_timeout(now);
    assert_eq!(exchange(&mut v, &mut d, now), None);
    let request = d.poll_request().expect("it came whole");
    assert!(d.poll_record().is_some() && d.poll_record().is_none());

    let inside = ["10.77.0.1", "10.77.0.2", "10.77.255.255", "fd77::1"];
    let packets = inside.map(|to| (packet(to.parse().unwrap()), DropReason::BadControl));
    let of_members = [
        Control::Probe([1; 8]),
        Control::ProbeReply([1; 8]),
        Control::RekeyInitiation(&[1; 200]),
        Control::RekeyResponse(&[1; 200]),
        Control::RekeyOffer(1, &[1; coterie_crypto::kem::ENCAPSULATION_KEY_LEN]),
        Control::RekeyAnswer(1, &[1; coterie_crypto::kem::CIPHERTEXT_LEN]),
        Control::RekeyConfirm(1, &[1; coterie_crypto::wrap::WRAPPED_LEN]),
        Control::DifferenceRequest(1, 0),
        Control::Difference {
            transfer: 1,
            offset: 0,
            total: 1,
            bytes: &[1],
        },
        Control::Statement(&[1; 100]),
    ];
    let of_members = of_members.map(|frame| (frame.to_bytes(), DropReason::Unexpected));
    for (text, reason) in packets.into_iter().chain(of_members) {
        let sealed = v.sealed(&text).expect("it is let in");
        let elsewhere = door(2).handle_outside(&mut sealed.clone(), at(VISITOR), |_| false, UnixTime(1), now);
        assert_eq!(elsewhere, None, "it is nobody's session there");
        let taken = d.handle_outside(&mut sealed.clone(), at(VISITOR), |_| false, UnixTime(1), now);
        assert_eq!(taken, Some(Outcome::Dropped(reason)), "{:02x?}", &text[..1]);
        assert!(d.poll_transmit().is_none() && d.poll_request().is_none() && d.poll_record().is_none());
    }
    // Another request than the first goes nowhere, either.
    let other = Control::Carry {
        offset: 0,
        total: 5,
        bytes: b"other",
    };
    let mut sealed = v.sealed(&other.to_bytes()).expect("it is let in");
    d.handle_outside(&mut sealed, at(VISITOR), |_| false, UnixTime(1), now);
    assert!(d.poll_request().is_none(), "one request a visit");

    d.answer(request.visit, bytes(50), now);
    assert_eq!(exchange(&mut v, &mut d, now), Some(bytes(50)), "the visit went on");
}

#[test]
fn a_token_that_is_taken_away_ends_its_visits() {
    let mut play = Play::new(visitor(TOKEN, &[1], bytes(5000)), &[1], bytes(100));
    play.lost = Box::new(|n| n > 6);
    play.run(Duration::from_millis(200));
    assert_eq!(play.doors[0].1.visits(), 1);
    assert_eq!(play.doors[0].1.poll_record(), Some(Record::Accepted(caller(), 1)));
    play.doors[0].1.handle_knocks(vec![]);
    assert_eq!(play.doors[0].1.visits(), 0);
    assert_eq!(play.doors[0].1.poll_record(), Some(Record::Forgotten(caller())));
}

#[test]
fn the_answer_to_who_spent_the_token_comes_through() {
    let mut play = Play::new(visitor(TOKEN, &[1], bytes(3000)), &[1], bytes(30_000));
    play.lost = Box::new(|n| n % 3 == 2);
    play.is_spent_at_once = true;
    assert!(play.run(Duration::from_secs(30)).is_some());
    assert_eq!(play.got, Some(bytes(30_000)));
    let (d, now) = (&mut play.doors[0].1, play.now);
    let from = at("192.0.2.77:9");
    let other = d.handle_outside(&mut call_of(7, TOKEN), from, |_| false, UnixTime(1), now);
    assert_eq!(other, None, "the token opens the door to nobody");
}

/// A call of the machine with private key `n`, under the token.
fn call_of(n: u8, token: u8) -> Vec<u8> {
    let mut v = visitor_of(n, token, &[1], vec![1]);
    v.handle_timeout(Instant::ZERO);
    v.poll_transmit().unwrap().bytes
}

#[test]
fn whoever_has_one_token_leaves_room_for_another() {
    let mut d = door(1);
    let tokens = [TOKEN, TOKEN + 1].map(|token| Knock {
        key: knock(token, 1),
        not_after: UnixTime(1000),
    });
    d.handle_knocks(tokens.into());
    let mut taken = 0;
    for n in 1..=200 {
        // From everywhere, so that no source's share is the bound.
        let from = SocketAddr::from(([198, 51, 100, n], 9));
        let came = d.handle_outside(&mut call_of(n, TOKEN), from, |_| false, UnixTime(1), Instant::ZERO);
        taken += usize::from(came == Some(Outcome::Handled));
    }
    assert_eq!((taken, d.visits()), (128, 128));
    let mut other = call_of(201, TOKEN + 1);
    let came = d.handle_outside(&mut other, at(VISITOR), |_| false, UnixTime(1), Instant::ZERO);
    assert_eq!(came, Some(Outcome::Handled));
}

#[test]
fn an_index_of_the_node_is_not_drawn() {
    let mut d = door(1);
    d.handle_outside(
        &mut call_of(5, TOKEN),
        at(VISITOR),
        |_| false,
        UnixTime(1),
        Instant::ZERO,
    );
    let index = d.indices().next().unwrap();
    let mut again = door(1);
    again.handle_outside(
        &mut call_of(5, TOKEN),
        at(VISITOR),
        |taken| taken == index,
        UnixTime(1),
        Instant::ZERO,
    );
    assert_ne!(again.indices().next().unwrap(), index, "the same generator");
}

#[test]
fn a_request_that_is_too_large_is_not_kept() {
    let mut inbound = carry::Inbound::default();
    let too_large = u32::try_from(MAX_REQUEST + 1).unwrap();
    assert_eq!(
        inbound.take(MAX_REQUEST, 0, too_large, &[1]),
        Err(DropReason::BadControl)
    );
    assert_eq!(inbound.take(MAX_REQUEST, 0, 3, &[1, 2]), Ok(2));
    assert_eq!(inbound.take(MAX_REQUEST, 0, 3, &[1, 2]), Ok(2), "a copy");
    assert_eq!(inbound.take(MAX_REQUEST, 1, 3, &[2, 3]), Ok(2), "out of step");
    assert_eq!(
        inbound.take(MAX_REQUEST, 2, 4, &[3]),
        Err(DropReason::BadControl),
        "another length"
    );
    assert_eq!(inbound.take(MAX_REQUEST, 2, 3, &[3, 4]), Err(DropReason::BadControl));
    assert_eq!(inbound.take(MAX_REQUEST, 2, 3, &[3]), Ok(3));
    assert!(inbound.is_whole());
    assert_eq!(inbound.take_whole(), [1, 2, 3]);
    assert_eq!(inbound.take(MAX_REQUEST, 2, 3, &[3]), Ok(3), "acknowledged again");
    assert!(inbound.is_whole());
}

#[test]
fn a_server_that_thinks_for_a_minute_is_waited_for() {
    let (mut v, mut d) = (visitor(TOKEN, &[1], bytes(3000)), door(1));
    let mut now = Instant::ZERO;
    let (mut asked, mut got) = (Vec::new(), None);
    while got.is_none() && now.since_boot() < Duration::from_secs(90) {
        v.handle_timeout(now);
        d.handle_timeout(now);
        loop {
            let mut quiet = true;
            while let Some(out) = v.poll_transmit() {
                quiet = false;
                d.handle_outside(&mut out.bytes.clone(), at(VISITOR), |_| false, UnixTime(1), now);
            }
            while let Some(request) = d.poll_request() {
                asked.push((request.visit, now + Duration::from_secs(60)));
            }
            if let Some((visit, _)) = asked.first().filter(|(_, ready)| *ready <= now) {
                d.answer(*visit, bytes(5000), now);
            }
            while let Some(out) = d.poll_transmit() {
                quiet = false;
                let (_, answer) = v.handle_outside(&mut out.bytes.clone(), now);
                got = answer.or(got);
            }
            if quiet {
                break;
            }
        }
        now = now + Duration::from_millis(50);
    }
    assert_eq!(got, Some(bytes(5000)));
    assert_eq!((asked.len(), v.calls()), (1, 1), "asked once");
}

#[test]
fn a_door_that_only_says_that_it_is_there_is_left_for_another() {
    let (mut v, mut hostile, mut honest) = (visitor(TOKEN, &[1, 2], bytes(3000)), door(1), door(2));
    let mut now = Instant::ZERO;
    let mut got = None;
    while got.is_none() && now.since_boot() < Duration::from_secs(200) {
        v.handle_timeout(now);
        honest.handle_timeout(now);
        loop {
            let mut quiet = true;
            while let Some(out) = v.poll_transmit() {
                quiet = false;
                let (mut bytes, first) = (out.bytes, out.to == at("192.0.2.1:4747"));
                // For the hostile one time stands still, so that no visit is over.
                let (to, when) = if first {
                    (&mut hostile, Instant::ZERO)
                } else {
                    (&mut honest, now)
                };
                to.handle_outside(&mut bytes, at(VISITOR), |_| false, UnixTime(1), when);
            }
            while let Some(request) = honest.poll_request() {
                honest.answer(request.visit, bytes(50), now);
            }
            let said = [&mut hostile, &mut honest].map(|door| std::iter::from_fn(|| door.poll_transmit()).collect());
            for out in said.into_iter().flat_map(|out: Vec<_>| out) {
                quiet = false;
                let (_, answer) = v.handle_outside(&mut out.bytes.clone(), now);
                got = answer.or(got);
            }
            if quiet {
                break;
            }
        }
        now = now + Duration::from_millis(50);
    }
    assert!(hostile.poll_request().is_some(), "it was there first");
    assert_eq!(got, Some(bytes(50)));
}

#[test]
fn a_stranger_who_floods_a_door_keeps_nobody_else_out() {
    let mut d = door(1);
    let mut noise = bytes(300);
    noise[..4].copy_from_slice(&[1, 0, 0, 0]);
    let from = at("198.51.100.1:9");
    for _ in 0..10_000 {
        d.handle_outside(&mut noise.clone(), from, |_| false, UnixTime(1), Instant::ZERO);
    }
    let mut v = visitor(TOKEN, &[1], vec![1]);
    v.handle_timeout(Instant::ZERO);
    let mut call = v.poll_transmit().unwrap().bytes;
    let taken = d.handle_outside(&mut call, at(VISITOR), |_| false, UnixTime(1), Instant::ZERO);
    assert_eq!(taken, Some(Outcome::Handled));
}
