use coterie_control::follow::message;
use coterie_crypto::{Secret, SeededEntropy, sign::SigningKey};
use coterie_model::{EpochKind, MemberId, Name, Prefix, Statement};

use super::*;

const TAG: CommunityTag = CommunityTag([1; 16]);

fn servers() -> Vec<SocketAddr> {
    ["192.0.2.1:4750", "192.0.2.2:4750"].map(|s| s.parse().unwrap()).into()
}

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn follower(seed: u64) -> Follower {
    Follower::new(servers(), 0, Box::new(SeededEntropy::from_number(seed)), at(0))
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(Secret::new([n; 32]))
}

fn signer() -> Signer {
    Signer {
        era: 1,
        enclave: EnclaveId([7; 16]),
        key: key(9).verifying_key(),
    }
}

/// One that follows since `now`.
fn following(seed: u64, now: Instant) -> Follower {
    let mut f = follower(seed);
    assert_eq!(f.step(now), Some(Step::Connect(servers()[0])));
    f.connected(now);
    f
}

fn take(f: &mut Follower, message: Message, now: Instant) -> Option<Word> {
    f.take(message, &signer(), now).unwrap()
}

fn revocations() -> Message {
    let list = Revocations {
        era: 1,
        enclave: EnclaveId([7; 16]),
        revision: 3,
        entries: vec![],
    };
    let framed = message::revocations(&Signed::sign(list, &key(9)));
    Message::parse(&framed[4..]).unwrap()
}

/// Lives until `end` and gives what was to be done, with when.
fn live(f: &mut Follower, from: Instant, end: Instant) -> Vec<(Duration, Step)> {
    let (mut now, mut done) = (from, vec![]);
    loop {
        while let Some(step) = f.step(now) {
            done.push((now.since_boot(), step));
            match step {
                Step::Connect(_) => f.disconnected(now),
                Step::Renew => f.not_renewed(now),
                Step::Disconnect | Step::Acknowledge(_) => {}
            }
        }
        match f.due().filter(|due| *due <= end) {
            Some(due) => now = due.max(now),
            None => return done,
        }
    }
}

#[test]
fn servers_are_tried_in_turn_with_longer_waits_that_differ() {
    let mut all = Vec::new();
    for seed in 0..20 {
        let tried = live(&mut follower(seed), at(0), at(60_000));
        for (n, (_, step)) in tried.iter().enumerate() {
            assert_eq!(*step, Step::Connect(servers()[n % 2]));
        }
        let waits: Vec<_> = tried.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        for (n, wait) in (0..).zip(&waits) {
            let middle = Duration::from_millis(200 * (1 << n.min(10))).min(LONGEST_WAIT);
            assert!(*wait >= middle / 2 && *wait <= middle * 3 / 2, "{n}: {wait:?}");
        }
        assert!(waits.len() > 9);
        all.push(waits[6]);
    }
    all.sort_unstable();
    all.dedup();
    assert!(all.len() > 15, "jitter: {all:?}");
}

#[test]
fn silence_ends_a_connection_and_the_next_one_goes_on_from_the_mark() {
    let mut f = following(1, at(0));
    for n in 0..5 {
        assert!(matches!(
            take(&mut f, Message::Mark(40 + n), at(2000 * n)),
            Some(Word::Mark(_))
        ));
    }
    assert_eq!(f.due(), Some(at(14_000)));
    assert_eq!(f.step(at(13_999)), None);
    assert_eq!(f.step(at(14_000)), Some(Step::Disconnect));
    assert_eq!(f.mark(), 44);
    let again = f.due().unwrap();
    assert!(
        again.since(at(14_000)) <= Duration::from_millis(300),
        "short waits again"
    );
    assert_eq!(f.step(again), Some(Step::Connect(servers()[1])));
    f.connected(again);
    assert_eq!((f.server(), f.mark()), (Some(servers()[1]), 44));
    f.forget();
    assert_eq!(f.mark(), 0);
}

#[test]
fn acknowledgements_are_joined_but_those_of_revocations_go_at_once() {
    let mut f = following(1, at(0));
    take(&mut f, Message::Mark(1), at(0));
    f.applied(1, at(10));
    assert_eq!(f.step(at(10)), None);
    take(&mut f, Message::Mark(2), at(500));
    f.applied(2, at(500));
    assert_eq!(f.step(at(1009)), None);
    assert_eq!(f.step(at(1010)), Some(Step::Acknowledge(2)), "both by one");
    // A heartbeat repeats the mark.
    take(&mut f, Message::Mark(2), at(2500));
    f.applied(2, at(2500));
    assert_eq!(f.due(), Some(at(8500)), "nothing to say");
    take(&mut f, revocations(), at(3000));
    take(&mut f, Message::Mark(3), at(3000));
    // A mark from before says nothing about the revocations.
    f.applied(2, at(3001));
    assert_eq!(f.step(at(3001)), None);
    f.applied(3, at(3002));
    assert_eq!(f.step(at(3002)), Some(Step::Acknowledge(3)));
    // Another server has heard nothing.
    f.disconnected(at(4000));
    f.applied(3, at(4001));
    let again = f.due().unwrap();
    assert_eq!(f.step(again), Some(Step::Connect(servers()[1])));
    f.connected(again);
    take(&mut f, Message::Mark(3), again);
    f.applied(3, again);
    assert_eq!(f.step(again + COALESCE), Some(Step::Acknowledge(3)));
}

#[test]
fn a_bundle_is_asked_for_within_two_seconds_and_once() {
    let mut delays = Vec::new();
    for seed in 0..50 {
        let mut f = following(seed, at(0));
        take(&mut f, Message::Renew, at(0));
        take(&mut f, Message::Renew, at(1));
        let due = f.renew_at.unwrap();
        delays.push(due.since_boot());
        assert_eq!(f.step(due), Some(Step::Renew));
        assert_eq!(f.step(due), None, "it is under way");
        // What is told now may be missing in what comes.
        take(&mut f, Message::Renew, due);
        f.renewed(due);
        assert!(f.renew_at.is_some_and(|again| again >= due));
        let due = f.renew_at.unwrap();
        assert_eq!(f.step(due), Some(Step::Renew));
        f.renewed(due);
        assert_eq!(f.renew_at, None);
    }
    assert!(delays.iter().all(|d| *d <= RENEW_SPREAD));
    let (first, last) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
    assert!(*last - *first > Duration::from_secs(1), "spread: {first:?} to {last:?}");
}

#[test]
fn a_bundle_that_does_not_come_is_asked_for_again_ever_more_rarely() {
    let mut f = following(1, at(0));
    f.renew_by((UnixTime(0), UnixTime(0)), UnixTime(0), at(0));
    let (mut now, mut asked) = (0, Vec::new());
    while now < 600_000 {
        take(&mut f, Message::Mark(1), at(now));
        if f.step(at(now)) == Some(Step::Renew) {
            asked.push(now);
            f.not_renewed(at(now));
        }
        now += 100;
    }
    let waits: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] <= 1700 && waits.len() < 25, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 91_000), "{waits:?}");
}

#[test]
fn half_of_a_bundle_is_enough_whatever_the_server_says() {
    let mut f = following(1, at(0));
    f.renew_by((UnixTime(1000), UnixTime(4600)), UnixTime(1600), at(0));
    let due = f.renew_at.unwrap().since_boot();
    assert!(
        due >= Duration::from_secs(1200) && due <= Duration::from_secs(1202),
        "{due:?}"
    );
    f.renew_by((UnixTime(1000), UnixTime(4600)), UnixTime(4000), at(0));
    assert_eq!(f.step(at(0)), Some(Step::Renew), "it is late");
}

#[test]
fn other_servers_are_followed_when_the_bundle_names_others() {
    let mut f = following(1, at(0));
    let mut more = servers();
    more.insert(0, "192.0.2.9:4750".parse().unwrap());
    f.set_servers(more, at(1));
    assert_eq!(f.server(), Some(servers()[0]), "it is still one of them");
    assert!(matches!(f.state(), State::Following { .. }));
    f.set_servers(vec!["192.0.2.8:4750".parse().unwrap()], at(2));
    assert_eq!(f.step(at(2)), Some(Step::Connect("192.0.2.8:4750".parse().unwrap())));
    f.set_servers(vec![], at(3));
    assert_eq!((f.step(at(9000)), f.due()), (None, None), "nobody is followed");
}

fn view(name: &str, signed_by: &SigningKey, tag: CommunityTag) -> Message {
    let statement = Statement {
        era: 1,
        enclave: EnclaveId([7; 16]),
        tag,
        member: MemberId([2; 16]),
        name: Name::new(name).unwrap(),
        static_key: [2; 32],
        addresses: vec![Prefix::host("10.0.0.2".parse().unwrap()).unwrap()],
        serial: 1,
        not_after: UnixTime(100),
    };
    let entry = DirectoryEntry {
        name: Name::new("web").unwrap(),
        communities: vec![TAG],
        addresses: statement.addresses.clone(),
        endpoints: vec![],
        statements: vec![Signed::sign(statement, signed_by)],
    };
    Message::parse(&message::entry_message(TAG, &entry)[4..]).unwrap()
}

fn manifests(signed_by: &SigningKey, enclave: EnclaveId) -> Message {
    let manifest = Manifest {
        era: 1,
        enclave,
        tag: TAG,
        name: Name::new("all").unwrap(),
        priority: 100,
        epoch: 1,
        commitment: [0; 32],
        activates: UnixTime(0),
        retires: UnixTime(100),
        kind: EpochKind::Scheduled,
        holders: 2,
    };
    let all = [Signed::sign(manifest, signed_by)];
    Message::parse(&message::manifests(TAG, all.iter())[4..]).unwrap()
}

#[test]
fn what_the_enclave_did_not_sign_is_not_taken() {
    let mut f = following(1, at(0));
    assert!(matches!(
        take(&mut f, view("web", &key(9), TAG), at(1)),
        Some(Word::View(_))
    ));
    assert!(matches!(
        take(&mut f, manifests(&key(9), EnclaveId([7; 16])), at(1)),
        Some(Word::Epochs(TAG, _))
    ));
    for bad in [
        view("web", &key(8), TAG),
        view("other", &key(9), TAG),
        view("web", &key(9), CommunityTag([2; 16])),
        manifests(&key(8), EnclaveId([7; 16])),
        manifests(&key(9), EnclaveId([6; 16])),
    ] {
        assert!(f.take(bad, &signer(), at(2)).is_err());
    }
}
