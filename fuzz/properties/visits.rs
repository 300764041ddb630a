//! A visitor, two doors, and an adversary who writes the script of the wire between them: what it may do is everything that
//! needs no token. Now and then an insider helps it: a visitor with the token and ill will, or who has the keys of a door.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{Entropy as _, Secret, SeededEntropy, aead::Suite, dh::KeyPair};
use coterie_model::{CommunityTag, EpochKey, Instant, UnixTime};
use coterie_proto::{
    bootstrap::{Caller, Door, Knock, MAX_REQUEST, Record, Rendezvous, Request, Visit, Visitor},
    handshake::{
        cookie::Jar,
        exchange::{Offered, Responded},
        frame::{Framed, RESPONSE_HEADER, append_macs},
        noise,
        payload::Suites,
        responder,
    },
    schedule,
    session::{Material, Origin, Session},
    wire::{
        control::Control,
        datagram::{INITIATION, PROVISIONAL, RESPONSE, SEALED, SEALED_OVERHEAD, Step},
    },
};

use crate::{
    nodes::Script,
    world::{Flying, keys, outside},
};

const DOORS: [u8; 2] = [1, 2];
const VISITOR: u8 = 9;
const INSIDER: u8 = 66;
/// What the adversary must never see.
const CANARY: &[u8] = b"canary!!";
/// Steps after which a script is cut.
const MAX_STEPS: usize = 120;
/// When the token ends, seconds from the start.
const TOKEN_ENDS: u64 = 3600;
/// How long the adversary may have been away when the visit comes to its end.
const LONGEST: Duration = Duration::from_secs(30);
/// After which a door has forgotten whoever says nothing.
const FORGOTTEN: Duration = Duration::from_secs(16);

fn knock(door: u8) -> EpochKey {
    EpochKey {
        tag: CommunityTag([0x70; 16]),
        epoch: 1,
        key: Secret::new([0x70 ^ door; 32]),
    }
}

fn suites() -> (Suites, Suite) {
    (Suites::new(&Suite::ALL).expect("three suites"), Suite::Aes256Gcm)
}

/// A door and what its host keeps.
struct Host {
    n: u8,
    door: Door,
    accepted: BTreeMap<Caller, u64>,
    /// Which of its lives this is.
    life: u64,
    /// Where somebody knocked from who had made the knock with the token.
    knocked: BTreeSet<SocketAddr>,
    /// Visits whose request came, by life.
    served: BTreeSet<(u64, u32)>,
}

impl Host {
    fn new(n: u8, accepted: BTreeMap<Caller, u64>, life: u64) -> Self {
        let entropy = SeededEntropy::from_number(100 * life + u64::from(n));
        let stored = accepted.clone();
        let mut this = Self {
            n,
            door: Door::new(keys(n), suites(), stored, Box::new(entropy)),
            accepted,
            life,
            knocked: BTreeSet::new(),
            served: BTreeSet::new(),
        };
        this.opens(true);
        this
    }

    /// Knocks are given to the door, or taken away.
    fn opens(&mut self, opens: bool) {
        let knocks = opens.then(|| Knock {
            key: knock(self.n),
            not_after: UnixTime(TOKEN_ENDS),
        });
        self.door.handle_knocks(knocks.into_iter().collect());
    }
}

/// The world, and what the checkers remember of it.
struct Play {
    now: Instant,
    visitor: Visitor,
    hosts: Vec<Host>,
    request: Vec<u8>,
    answer: Vec<u8>,
    got: Option<Vec<u8>>,
    /// Requests that the server has not answered: door, life, visit.
    pending: Vec<(usize, u64, u32)>,
    /// Datagrams that the adversary holds back.
    held: Vec<Flying>,
    log: Vec<Flying>,
    /// What visitor and doors made.
    made: BTreeSet<Vec<u8>>,
    looked_at: usize,
    nonces: BTreeSet<(SocketAddr, [u8; 12])>,
    provisional: BTreeMap<(SocketAddr, Vec<u8>), Vec<u8>>,
    /// What doors said to the insider.
    inside_job: Vec<Vec<u8>>,
    insiders: u64,
    /// The insider stood at a door and may have given an answer.
    impostor: bool,
    entropy: SeededEntropy,
}

/// Whatever happens on the wire: nothing panics; doors speak to nobody who did not knock with the token, and no more than
/// they were told; no nonce is used twice under a key; nothing of request or answer is on the wire in clear; memory is
/// bounded; a request arrives at most once in a visit, unchanged; and when the adversary leaves, the visit comes to its end.
pub(crate) fn visits(data: &[u8]) {
    let mut script = Script(data);
    let mut play = Play::new(&mut script);
    for _ in 0..MAX_STEPS {
        if script.0.is_empty() {
            break;
        }
        play.step(&mut script);
        play.check();
    }
    play.ends();
}

/// Of which no two pieces are the same.
fn marked(len: usize) -> Vec<u8> {
    let pieces = (0..len.div_ceil(16)).map(|n| [CANARY, &u64::try_from(n).expect("few").to_be_bytes()].concat());
    let mut bytes: Vec<u8> = pieces.flatten().collect();
    bytes.truncate(len);
    bytes
}

impl Play {
    /// First of the script: how many doors the visitor knows, and how long request and answer are.
    fn new(script: &mut Script<'_>) -> Self {
        let shape = script.byte();
        let request = marked((1 + usize::from(script.byte()) * 65).min(MAX_REQUEST));
        let rendezvous = |n: u8| Rendezvous {
            endpoint: outside(n),
            static_key: *keys(n).public(),
            knock: knock(n),
        };
        let known = if shape & 1 == 0 { &DOORS[..] } else { &DOORS[..1] };
        let mut known: Vec<_> = known.iter().map(|n| rendezvous(*n)).collect();
        if shape & 2 != 0 {
            // A point of low order.
            known[0].static_key = [0; 32];
            known.rotate_left(1);
            known.push(rendezvous(1));
        }
        let visit = Visit {
            keys: keys(VISITOR),
            rendezvous: known,
            suites: suites(),
            request: request.clone(),
            counter: 1,
        };
        Self {
            now: Instant::ZERO,
            visitor: Visitor::new(visit, Box::new(SeededEntropy::from_number(1)), Instant::ZERO),
            hosts: DOORS.map(|n| Host::new(n, BTreeMap::new(), 1)).into(),
            answer: marked(1 + usize::from(script.byte()) * 257),
            request,
            got: None,
            pending: vec![],
            held: vec![],
            log: vec![],
            made: BTreeSet::new(),
            looked_at: 0,
            nonces: BTreeSet::new(),
            provisional: BTreeMap::new(),
            inside_job: vec![],
            insiders: 0,
            impostor: false,
            entropy: SeededEntropy::from_number(2),
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() % 16 {
            0 => self.release(script, false),
            1 => self.release(script, true),
            2 => drop(self.take(script)),
            3 => self.mutate(script),
            4 | 5 => self.pass(Duration::from_millis(1 << script.below(17))),
            6 => self.inject(script),
            7 => self.replay(script),
            8 => self.roam(script),
            9 => self.restart(script),
            10 => {
                let n = script.below(DOORS.len());
                self.hosts[n].opens(script.byte() % 2 == 1);
            }
            11 => self.serve(),
            12 => self.insider(script),
            13 => self.impostor(script),
            _ => self.deliver_all(),
        }
        self.collect();
    }

    /// What visitor and doors want to send comes into the adversary's hands.
    fn collect(&mut self) {
        let visitor = std::iter::from_fn(|| self.visitor.poll_transmit());
        let mut all: Vec<_> = visitor.map(|out| (outside(VISITOR), out)).collect();
        assert!(all.iter().all(|(_, out)| DOORS.map(outside).contains(&out.to)));
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            while let Some(record) = host.door.poll_record() {
                match record {
                    Record::Accepted(caller, counter) => {
                        let before = host.accepted.insert(caller, counter);
                        assert!(before.is_none_or(|before| before < counter));
                    }
                    Record::Forgotten(caller) => assert!(host.accepted.remove(&caller).is_some()),
                }
            }
            let from = outside(host.n);
            for out in std::iter::from_fn(|| host.door.poll_transmit()) {
                assert!(host.knocked.contains(&out.to), "speaks to somebody who did not knock");
                if out.to == outside(INSIDER) {
                    self.inside_job.push(out.bytes);
                } else {
                    all.push((from, out));
                }
            }
            while let Some(request) = self.hosts[at].door.poll_request() {
                self.requested(at, &request);
            }
        }
        for (from, out) in all {
            let datagram = Flying {
                from,
                to: out.to,
                bytes: out.bytes,
            };
            self.made.insert(essence(&datagram.bytes));
            self.log.push(datagram.clone());
            self.held.push(datagram);
        }
        // An adversary that holds back everything holds back too much to be interesting.
        let surplus = self.held.len().saturating_sub(96);
        self.held.drain(..surplus);
    }

    fn requested(&mut self, at: usize, request: &Request) {
        let host = &mut self.hosts[at];
        assert!(
            host.served.insert((host.life, request.visit)),
            "a request twice in a visit"
        );
        assert!(host.knocked.contains(&request.from) && request.token == knock(1).tag);
        if request.static_key == *keys(VISITOR).public() {
            assert_eq!(request.bytes, self.request, "changed on its way");
        } else {
            assert!(request.static_key == *keys(INSIDER).public() && request.bytes.len() <= MAX_REQUEST);
        }
        self.pending.push((at, host.life, request.visit));
    }

    /// The server answers what it was asked.
    fn serve(&mut self) {
        for (at, life, visit) in std::mem::take(&mut self.pending) {
            let host = &mut self.hosts[at];
            if host.life == life {
                host.door.answer(visit, self.answer.clone(), self.now);
            }
        }
        self.collect();
    }

    fn hand(&mut self, datagram: &Flying) {
        let genuine = self.made.contains(&essence(&datagram.bytes));
        let before = self.log.len();
        if datagram.to == outside(VISITOR) {
            self.reach_visitor(&datagram.bytes);
        } else {
            let Some(at) = DOORS.iter().position(|n| outside(*n) == datagram.to) else {
                return;
            };
            self.reach_door(at, datagram.from, &datagram.bytes, genuine);
        }
        let caused = &self.log[before..];
        assert!(genuine || caused.is_empty(), "an answer to what nobody made");
        assert!(caused.len() <= 20, "{} datagrams for one", caused.len());
        if datagram.to != outside(VISITOR) && datagram.bytes.first() == Some(&INITIATION) {
            let length: usize = caused.iter().map(|d| d.bytes.len()).sum();
            assert!(length <= datagram.bytes.len(), "more than it was told");
        }
    }

    fn reach_visitor(&mut self, bytes: &[u8]) {
        let (_, answer) = self.visitor.handle_outside(&mut bytes.to_vec(), self.now);
        if let Some(answer) = answer {
            assert!(self.got.is_none(), "a second answer");
            assert!(self.impostor || answer == self.answer, "changed on its way");
            self.got = Some(answer);
        }
        self.collect();
    }

    fn reach_door(&mut self, at: usize, from: SocketAddr, bytes: &[u8], genuine: bool) {
        let (now, time) = (self.now, UnixTime(self.now.since_boot().as_secs()));
        let host = &mut self.hosts[at];
        if genuine && matches!(bytes[0], INITIATION | PROVISIONAL) {
            host.knocked.insert(from);
        }
        host.door
            .handle_outside(&mut bytes.to_vec(), from, |_| false, time, now);
        self.collect();
    }

    fn take(&mut self, script: &mut Script<'_>) -> Option<Flying> {
        if self.held.is_empty() {
            return None;
        }
        let at = script.below(self.held.len());
        Some(self.held.remove(at))
    }

    fn release(&mut self, script: &mut Script<'_>, twice: bool) {
        let Some(datagram) = self.take(script) else { return };
        self.hand(&datagram);
        if twice {
            self.hand(&datagram);
        }
    }

    fn deliver_all(&mut self) {
        for _ in 0..200 {
            if self.held.is_empty() {
                break;
            }
            for datagram in std::mem::take(&mut self.held) {
                self.hand(&datagram);
            }
        }
    }

    fn mutate(&mut self, script: &mut Script<'_>) {
        let Some(mut datagram) = self.take(script) else { return };
        for _ in 0..=script.below(4) {
            let at = (usize::from(script.byte()) << 8 | usize::from(script.byte())) % datagram.bytes.len();
            match script.byte() % 4 {
                0 => datagram.bytes.truncate(at.max(1)),
                1 => datagram.bytes.push(script.byte()),
                2 => datagram.bytes[at] = script.byte(),
                _ => datagram.bytes[at] ^= 1 << (script.byte() % 8),
            }
        }
        self.hand(&datagram);
    }

    fn inject(&mut self, script: &mut Script<'_>) {
        let len = usize::from(script.byte()) * 4;
        let to = [VISITOR, DOORS[0], DOORS[1]][script.below(3)];
        let datagram = Flying {
            from: outside(script.byte()),
            to: outside(to),
            bytes: script.bytes(len),
        };
        self.hand(&datagram);
    }

    /// Something old again, to whom it was for or to another.
    fn replay(&mut self, script: &mut Script<'_>) {
        let len = self.log.len();
        if len > 0 {
            let at = (usize::from(script.byte()) << 8 | usize::from(script.byte())) % len;
            let mut datagram = self.log[at].clone();
            if script.byte().is_multiple_of(4) {
                datagram.to = outside([VISITOR, DOORS[0], DOORS[1]][script.below(3)]);
            }
            self.hand(&datagram);
        }
    }

    fn roam(&mut self, script: &mut Script<'_>) {
        if let Some(mut datagram) = self.take(script) {
            datagram.from = outside(100 + script.byte() % 8);
            self.hand(&datagram);
        }
    }

    /// Kill and restart: only what was to be stored survives.
    fn restart(&mut self, script: &mut Script<'_>) {
        let host = &mut self.hosts[script.below(DOORS.len())];
        let mut after = Host::new(host.n, std::mem::take(&mut host.accepted), host.life + 1);
        after.served = std::mem::take(&mut host.served);
        *host = after;
    }

    fn pass(&mut self, by: Duration) {
        let end = self.now + by;
        for _ in 0..10_000 {
            let doors = self.hosts.iter().filter_map(|h| h.door.poll_timeout());
            let next = doors.chain(self.visitor.poll_timeout()).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = at.max(self.now);
            let now = self.now;
            self.visitor.handle_timeout(now);
            assert!(self.visitor.poll_timeout().is_none_or(|at| at > now));
            for host in &mut self.hosts {
                host.door.handle_timeout(now);
                let due = host.door.poll_timeout().is_some_and(|at| at <= now);
                assert!(!due, "a deadline that was attended to is over");
            }
            self.collect();
        }
        panic!("time does not pass: deadlines follow each other without end");
    }

    fn check(&mut self) {
        for Flying { from, bytes, .. } in &self.log[self.looked_at..] {
            assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY), "in clear");
            assert!(bytes.len() <= 1232, "longer than a path lets through");
            if bytes[0] == SEALED {
                let header = [&bytes[..6], &bytes[10..16]].concat();
                let nonce = (*from, header.try_into().expect("6 and 6 bytes"));
                assert!(self.nonces.insert(nonce), "a nonce twice");
            }
            if bytes[0] == PROVISIONAL {
                let place = (*from, bytes[..8].to_vec());
                let before = self.provisional.insert(place, bytes.clone());
                assert!(before.is_none_or(|before| before == *bytes), "a nonce twice");
            }
        }
        self.looked_at = self.log.len();
        assert!(self.hosts.iter().all(|h| h.door.visits() <= 2), "one visit of each");
    }

    /// The adversary leaves: the answer comes, and all is over.
    fn ends(&mut self) {
        self.held.clear();
        self.hosts.iter_mut().for_each(|host| host.opens(true));
        if self.now.since_boot() > Duration::from_secs(TOKEN_ENDS / 2) {
            return;
        }
        let left = self.now;
        while self.got.is_none() {
            assert!(
                self.now.since(left) <= LONGEST,
                "nothing is lost and the visit has no end"
            );
            self.pass_delivering(Duration::from_millis(100));
        }
        for _ in 0..4 {
            self.pass_delivering(FORGOTTEN / 4);
        }
        assert!(self.visitor.poll_timeout().is_none());
        assert!(
            self.hosts
                .iter()
                .all(|h| h.door.visits() == 0 && h.door.poll_timeout().is_none())
        );
    }

    fn pass_delivering(&mut self, by: Duration) {
        self.pass(by);
        self.deliver_all();
        self.serve();
        self.deliver_all();
        self.check();
    }
}

/// A datagram without the proof of its source address, which nobody asked for.
fn essence(bytes: &[u8]) -> Vec<u8> {
    let proved = if matches!(bytes.first(), Some(&(INITIATION | RESPONSE))) {
        16
    } else {
        0
    };
    bytes[..bytes.len().saturating_sub(proved)].to_vec()
}

/// What needs a token, or the keys of a door.
impl Play {
    /// A visitor of its own, who says what the script says.
    fn insider(&mut self, script: &mut Script<'_>) {
        self.insiders += 1;
        let at = script.below(DOORS.len());
        let (n, own) = (DOORS[at], keys(INSIDER));
        let (key, door) = (knock(n), *keys(n).public());
        let index = u32::try_from(self.insiders).expect("few");
        let mut message = [&[INITIATION, 0, 0, 0][..], &index.to_be_bytes()].concat();
        let mut payload = [&self.insiders.to_be_bytes()[..], &[7, 1]].concat();
        payload.resize(if script.byte() % 16 == 15 { 255 } else { 256 }, 0);
        changed(&mut payload, script);
        let noise = noise::Initiator::start(
            &own,
            &door,
            &schedule::psk(&key, &door),
            &schedule::prologue(&key),
            &payload,
            &mut self.entropy,
            &mut message,
        );
        append_macs(&mut message, &schedule::mac_key(&key, &door), None);
        self.inside_job.clear();
        self.hosts[at].knocked.insert(outside(INSIDER));
        self.reach_door(at, outside(INSIDER), &message, true);
        let response = self.inside_job.pop().filter(|r| r[0] == RESPONSE);
        let Some((noise, response)) = noise.ok().zip(response) else {
            return;
        };
        let remote = u32::from_be_bytes(response[4..8].try_into().expect("4 bytes"));
        let framed = Framed::cut(&response).expect("a response");
        let (established, _) = noise
            .finish(&own, &framed.before_mac1[RESPONSE_HEADER..])
            .expect("a true response");
        let mut offered = Offered::new(established, &mut self.entropy);
        changed(&mut offered.offer[..], script);
        let offer = offered.provisional.seal(Step::Offer, remote, &offered.offer[..]);
        self.reach_door(at, outside(INSIDER), &offer, true);
        let answer = self.inside_job.pop().filter(|a| a[0] == PROVISIONAL);
        let Some(answer) = answer.and_then(|a| offered.provisional.open(Step::Answer, &a).ok()) else {
            return;
        };
        let (provisional, mut wrapped, roots) = offered.confirm(&answer, &key, &door, &mut self.entropy);
        changed(&mut wrapped, script);
        // The offer once more, and another one.
        self.reach_door(at, outside(INSIDER), &offer, true);
        let other = provisional.seal(Step::Offer, remote, &[1; 1184]);
        self.reach_door(at, outside(INSIDER), &other, true);
        let confirm = provisional.seal(Step::Confirm, remote, &wrapped);
        self.reach_door(at, outside(INSIDER), &confirm, true);
        let mut session = session((index, remote), true, [&roots.i2r, &roots.r2i]);
        for _ in 0..script.below(12) {
            let bytes = self.said(&mut session, script);
            self.reach_door(at, outside(INSIDER), &bytes, true);
        }
    }

    /// Answers the visitor's last call in the place of the door that it was for.
    fn impostor(&mut self, script: &mut Script<'_>) {
        self.insiders += 1;
        let mut calls = self.log.iter().rev().filter(|d| d.bytes[0] == INITIATION);
        let Some(call) = calls.next().cloned() else { return };
        let n = DOORS.into_iter().find(|n| outside(*n) == call.to).expect("a door");
        let (key, own) = (knock(n), keys(n));
        let framed = Framed::cut(&call.bytes).expect("an initiation");
        let remote = u32::from_be_bytes(call.bytes[4..8].try_into().expect("4 bytes"));
        if script.byte().is_multiple_of(4) {
            let mut jar = Jar::new(true, self.now, &mut self.entropy);
            let about = (remote, &framed.mac1[..]);
            let cookie = jar.ask(&key, own.public(), about, call.from, self.now, &mut self.entropy);
            self.reach_visitor(&cookie);
            return;
        }
        let index = 0x4000_0000 + u32::try_from(self.insiders).expect("few");
        let Some((response, responded)) = self.respond(&framed, (&key, &own), (index, remote), script) else {
            return;
        };
        let before = self.log.len();
        self.impostor = true;
        self.reach_visitor(&response);
        let Some(offer) = self.log[before..].iter().find(|d| d.bytes[0] == PROVISIONAL) else {
            return;
        };
        let offer = responded
            .provisional
            .open(Step::Offer, &offer.bytes)
            .expect("to the insider");
        let mut answered = responded.answer(offer, &mut self.entropy).expect("a true key");
        changed(&mut answered.answer[..], script);
        let answer = answered.provisional.seal(Step::Answer, remote, &answered.answer[..]);
        let before = self.log.len();
        self.reach_visitor(&answer);
        let Some(confirm) = self.log[before..].iter().find(|d| d.bytes[0] == PROVISIONAL) else {
            return;
        };
        let wrapped = answered.provisional.open(Step::Confirm, &confirm.bytes);
        let wrapped = wrapped.expect("to the insider");
        let roots = answered.roots(&wrapped, &key, own.public()).expect("wrapped for it");
        let mut session = session((index, remote), false, [&roots.r2i, &roots.i2r]);
        for _ in 0..script.below(12) {
            if self.got.is_none() {
                let bytes = self.said(&mut session, script);
                self.reach_visitor(&bytes);
            }
        }
    }

    fn respond(
        &mut self,
        framed: &Framed<'_>,
        (key, own): (&EpochKey, &KeyPair),
        (index, remote): (u32, u32),
        script: &mut Script<'_>,
    ) -> Option<(Vec<u8>, Responded)> {
        let claimed = responder::claimed(own, key, framed).ok()?;
        let (proved, _) = claimed.prove(own).ok()?;
        let mut payload = vec![1];
        payload.resize(if script.byte() % 16 == 15 { 255 } else { 256 }, 0);
        changed(&mut payload, script);
        let mut message = vec![RESPONSE, 0, 0, 0];
        message.extend_from_slice(&index.to_be_bytes());
        message.extend_from_slice(&remote.to_be_bytes());
        let mac_key = schedule::mac_key(key, proved.static_key());
        let established = proved.respond(&payload, &mut self.entropy, &mut message).ok()?;
        append_macs(&mut message, &mac_key, None);
        Some((message, Responded::new(established)))
    }

    /// A frame, sealed.
    fn said(&mut self, session: &mut Session, script: &mut Script<'_>) -> Vec<u8> {
        let text = frame(script);
        let mut out = vec![0; text.len() + SEALED_OVERHEAD];
        let sealed = session.seal(0, self.entropy.salt(), &text, &mut out);
        assert!(sealed.is_ok(), "few were sealed");
        out
    }
}

/// Nothing, or one byte, is changed.
fn changed(bytes: &mut [u8], script: &mut Script<'_>) {
    let what = script.byte();
    if what % 4 == 3 {
        bytes[usize::from(what / 4) % bytes.len()] = script.byte();
    }
}

fn session((local_index, remote_index): (u32, u32), initiator: bool, roots: [&Secret<32>; 2]) -> Session {
    let material = Material {
        send_root: roots[0],
        receive_root: roots[1],
        suite: Suite::Aes256Gcm,
        send_lanes: 1,
        receive_lanes: 1,
    };
    let origin = Origin {
        local_index,
        remote_index,
        initiator,
        tag: knock(1).tag,
        epoch: 1,
        made: Instant::ZERO,
    };
    Session::new(&material, origin)
}

/// The text of a control frame, or what is none.
fn frame(script: &mut Script<'_>) -> Vec<u8> {
    let length = [1, 2, 16, 1024][script.below(4)];
    let numbers = [0, 1, 1024, 2048, 16_384, 16_385, 1_048_577, u32::MAX];
    let piece = vec![script.byte(); length];
    match script.byte() % 8 {
        0..=2 => Control::Carry {
            offset: numbers[script.below(4)],
            total: numbers[script.below(numbers.len())],
            bytes: &piece,
        }
        .to_bytes(),
        3 => Control::Carried(numbers[script.below(numbers.len())]).to_bytes(),
        4 => Control::Keepalive.to_bytes(),
        5 => Control::Close.to_bytes(),
        6 => Control::Probe([1; 8]).to_bytes(),
        _ => piece,
    }
}
