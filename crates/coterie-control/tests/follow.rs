//! What followers are told: what they may know, all of it, and in an order that refuses before it admits.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use coterie_control::{
    bundle::{Bundle, Freshness, Keys, Request},
    follow::{Message, News, everything, news},
    issue::{Enclave, Roll},
};
use coterie_crypto::{Secret, SeededEntropy};
use coterie_model::{CommunityTag, EpochKey, MemberId, Name, UnixTime, signed::head_hash};

const NOW: UnixTime = UnixTime(1_795_506_345);

const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/16"]
[community.web]
[community.db]
[template.web]
communities = ["web"]
[template.db]
communities = ["db"]
[template.both]
communities = ["web", "db"]
"#;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A server in a nutshell: an enclave, and what its followers know by what they were told.
struct Server {
    enclave: Enclave,
    entropy: SeededEntropy,
    known: BTreeMap<Name, Follower>,
    next: u64,
}

#[derive(Default)]
struct Follower {
    communities: BTreeSet<Name>,
    views: BTreeMap<CommunityTag, BTreeSet<Name>>,
    building: BTreeSet<Name>,
    epochs: BTreeMap<CommunityTag, Vec<u64>>,
    refused: usize,
    pulses: u64,
    renewals: u32,
    /// Kinds of messages, in order.
    order: Vec<&'static str>,
}

impl Follower {
    fn take(&mut self, framed: &[u8]) {
        let (length, body) = framed.split_first_chunk::<4>().unwrap();
        assert_eq!(usize::try_from(u32::from_be_bytes(*length)).unwrap(), body.len());
        match Message::parse(body).unwrap() {
            Message::Pulse(head) => {
                self.pulses = head.claimed().revision;
                self.order.push("pulse");
            }
            Message::Revocations(list) => {
                self.refused = list.claimed().entries.len();
                self.order.push("revocations");
            }
            Message::Manifests(tag, manifests) => {
                let epochs = manifests.iter().map(|m| m.claimed().epoch).collect();
                self.epochs.insert(tag, epochs);
                self.order.push("manifests");
            }
            Message::View(piece) => {
                if piece.begins {
                    self.building.clear();
                }
                let names = piece.entries.iter().map(|e| e.name.clone());
                self.building.extend(names.clone());
                let view = self.views.entry(piece.tag).or_default();
                view.extend(names);
                view.retain(|name| !piece.gone.contains(name));
                if piece.ends {
                    view.retain(|name| self.building.contains(name));
                }
                self.order.push("view");
            }
            Message::Renew => self.renewals += 1,
            Message::Knocks(_) | Message::Mark(_) | Message::Explain { .. } => panic!("not in news"),
        }
    }
}

impl Server {
    fn new() -> Self {
        let mut entropy = SeededEntropy::from_number(3);
        let mut enclave = Enclave::init(FILE, NOW, &mut entropy).unwrap();
        enclave.serve(NOW).unwrap();
        enclave.take_records();
        Self {
            enclave,
            entropy,
            known: BTreeMap::new(),
            next: 0,
        }
    }

    fn join(&mut self, template: &str, member: &str) {
        self.next += 1;
        let keys = Keys::generate(name(member), &mut SeededEntropy::from_number(100 + self.next));
        let request = Request::new(&keys).unwrap();
        let endpoint = "192.0.2.1:4747".parse().unwrap();
        self.enclave
            .provision(
                &name(template),
                vec![endpoint],
                &request,
                false,
                MemberId::draw(&mut self.entropy),
                NOW,
            )
            .unwrap();
        let bundle = self.enclave.issue(&name(member), NOW, &mut self.entropy).unwrap();
        let opened = Bundle::parse(bundle.as_bytes())
            .unwrap()
            .open(&keys, None, NOW, 0)
            .unwrap();
        assert_eq!(opened.freshness, Freshness::Heads);
        let list = opened.revocations.unwrap();
        assert_eq!(opened.head.unwrap().hash, head_hash(&list), "the pulse pins the list");
        let mut follower = Follower {
            communities: opened.manifests.iter().map(|m| m.name.clone()).collect(),
            ..Follower::default()
        };
        everything(&self.enclave, &follower.communities, false, NOW)
            .iter()
            .for_each(|m| follower.take(m));
        self.known.insert(name(member), follower);
        self.tell();
    }

    fn changed(&mut self) -> News {
        let records = self.enclave.take_records();
        news(&self.enclave, records.iter().map(|r| (&r.part, &r.concerns)), NOW)
    }

    fn tell(&mut self) {
        let news = self.changed();
        for follower in self.known.values_mut() {
            follower.order.clear();
            let communities = follower.communities.clone();
            news.of(&communities).for_each(|m| follower.take(m));
        }
    }

    fn view(&self, of: &str, community: &str) -> Vec<String> {
        let tag = self.enclave.tag(&name(community)).unwrap();
        let view = self.known[&name(of)].views.get(&tag);
        view.into_iter().flatten().map(ToString::to_string).collect()
    }
}

#[test]
fn members_know_those_whom_they_share_a_community_with_and_nobody_else() {
    let mut s = Server::new();
    for (template, member) in [("web", "web-1"), ("db", "db-1"), ("both", "app-1"), ("web", "web-2")] {
        s.join(template, member);
    }
    assert_eq!(s.view("web-1", "web"), ["app-1", "web-1", "web-2"]);
    assert_eq!(s.view("web-1", "db"), [""; 0]);
    assert_eq!(s.view("db-1", "db"), ["app-1", "db-1"]);
    assert_eq!(s.view("app-1", "db"), ["app-1", "db-1"]);

    s.enclave.end(&name("app-1"), NOW).unwrap();
    s.known.remove(&name("app-1"));
    s.tell();
    assert_eq!(s.view("web-1", "web"), ["web-1", "web-2"]);
    assert_eq!(s.view("db-1", "db"), ["db-1"]);
    assert!(s.changed().is_empty(), "told once");
}

#[test]
fn who_is_removed_is_refused_before_keys_are_renewed() {
    let mut s = Server::new();
    for member in ["web-1", "web-2", "web-3"] {
        s.join("web", member);
    }
    s.join("db", "db-1");
    for community in s.enclave.revoke(&name("web-3"), NOW).unwrap() {
        s.enclave.roll(&community, Roll::Removal, NOW, &mut s.entropy).unwrap();
    }
    s.known.remove(&name("web-3"));
    s.tell();
    let web = &s.known[&name("web-1")];
    assert_eq!((web.refused, web.renewals), (1, 1));
    assert_eq!(web.order[..2], ["revocations", "pulse"], "{:?}", web.order);
    let tag = s.enclave.tag(&name("web")).unwrap();
    assert_eq!(web.epochs[&tag], [1, 2]);
    let db = &s.known[&name("db-1")];
    assert_eq!((db.refused, db.renewals), (1, 0), "its own keys stay");
    assert_eq!(db.order, ["revocations", "pulse"]);
}

#[test]
fn isolation_is_told_as_a_refusal_and_a_bundle_by_its_statements_alone() {
    let mut s = Server::new();
    s.join("web", "web-1");
    s.join("web", "web-2");
    s.enclave.isolate(&name("web-2"), NOW).unwrap();
    s.tell();
    assert_eq!(s.known[&name("web-1")].refused, 1);
    s.enclave.release(&name("web-2"), NOW).unwrap();
    s.tell();
    let web = &s.known[&name("web-1")];
    assert_eq!((web.refused, web.renewals), (0, 0));
    let later = NOW.plus(Duration::from_secs(2000));
    assert_eq!(s.enclave.due_for_renewal(later).len(), 2);
    s.enclave.issue(&name("web-2"), later, &mut s.entropy).unwrap();
    s.tell();
    let web = &s.known[&name("web-1")];
    assert_eq!(
        (web.order.clone(), web.renewals),
        (vec!["view"], 0),
        "the newer statement"
    );
}

#[test]
fn a_change_of_the_file_moves_members_between_views() {
    let mut s = Server::new();
    s.join("web", "web-1");
    s.join("both", "app-1");
    let moved = FILE.replace("communities = [\"web\", \"db\"]", "communities = [\"db\"]");
    s.enclave.update(&moved, NOW, &mut s.entropy).unwrap();
    s.tell();
    assert_eq!(s.view("web-1", "web"), ["web-1"]);
    let web = &s.known[&name("web-1")];
    assert!(web.renewals > 0, "the key that app-1 had is replaced");
    // Whoever is isolated gets no new statements, and is in the views all the same.
    s.enclave.isolate(&name("app-1"), NOW).unwrap();
    s.enclave.update(FILE, NOW, &mut s.entropy).unwrap();
    s.tell();
    assert_eq!(s.view("web-1", "web"), ["app-1", "web-1"]);
    let told = s.view("web-1", "web");
    let web = &s.enclave.view(&name("web"), NOW);
    assert_eq!(told, web.iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>());
    let of = |s: &Server, community: &str| {
        let entry = s.enclave.entry(&name("app-1"), &name(community), NOW).unwrap();
        entry.statements.into_iter().map(|statement| statement.serial).max()
    };
    let kept = of(&s, "db");
    assert!(kept.is_some() && of(&s, "web").is_none());
    // It is moved out and in again: others were told that what it had counts no more.
    for text in [
        FILE.replace("communities = [\"web\", \"db\"]", "communities = [\"web\"]"),
        FILE.to_owned(),
    ] {
        s.enclave.update(&text, NOW, &mut s.entropy).unwrap();
    }
    assert_eq!(of(&s, "db"), None);
    s.enclave.release(&name("app-1"), NOW).unwrap();
    s.enclave.issue(&name("app-1"), NOW, &mut s.entropy).unwrap();
    assert!(of(&s, "db") > kept, "a newer one");
}

#[test]
fn large_views_come_in_pieces_and_a_new_whole_forgets_the_old() {
    let mut s = Server::new();
    for n in 0..250 {
        s.join("web", &format!("web-{n}"));
    }
    let communities = [name("web")].into();
    let all = everything(&s.enclave, &communities, false, NOW);
    let mut follower = Follower::default();
    let tag = s.enclave.tag(&name("web")).unwrap();
    follower.views.entry(tag).or_default().insert(name("long-gone"));
    all.iter().for_each(|m| follower.take(m));
    assert_eq!(follower.order.iter().filter(|kind| **kind == "view").count(), 3);
    assert_eq!(follower.views[&tag].len(), 250);
}

#[test]
fn of_a_community_that_is_too_large_only_mirrors_are_told() {
    let mut s = Server::new();
    s.join("web", "first");
    for n in 0..1001 {
        s.next += 1;
        let keys = Keys::generate(name(&format!("w-{n}")), &mut SeededEntropy::from_number(9000 + s.next));
        let request = Request::new(&keys).unwrap();
        s.enclave
            .provision(
                &name("web"),
                vec![],
                &request,
                false,
                MemberId::draw(&mut s.entropy),
                NOW,
            )
            .unwrap();
    }
    s.changed();
    assert!(s.enclave.is_large(&name("web")));
    let (web, tag) = ([name("web")].into(), s.enclave.tag(&name("web")).unwrap());
    let mut known = Follower::default();
    known.views.entry(tag).or_default().insert(name("asked-for"));
    let all = everything(&s.enclave, &web, false, NOW);
    all.iter().for_each(|m| known.take(m));
    assert_eq!(
        known.views[&tag],
        [name("asked-for")].into(),
        "who was found stays known"
    );
    let mut mirror = Follower::default();
    let all = everything(&s.enclave, &web, true, NOW);
    all.iter().for_each(|m| mirror.take(m));
    assert_eq!(mirror.views[&tag].len(), 1002);

    let later = NOW.plus(Duration::from_secs(2000));
    s.enclave.issue(&name("w-7"), later, &mut s.entropy).unwrap();
    s.enclave.end(&name("w-8"), later).unwrap();
    let news = s.changed();
    (known.order, mirror.order) = (vec![], vec![]);
    news.of(&web).for_each(|m| known.take(m));
    assert!(!known.views[&tag].contains(&name("w-7")));
    news.of_mirror(&web).for_each(|m| mirror.take(m));
    let views = |of: &Follower| of.order.iter().filter(|kind| **kind == "view").count();
    assert_eq!(
        (views(&known), views(&mirror)),
        (1, 2),
        "who is gone, and who has a newer statement"
    );
    assert_eq!(mirror.views[&tag].len(), 1001);
}

#[test]
fn a_message_is_what_its_bytes_say_and_no_more() {
    let key = |n| EpochKey {
        tag: CommunityTag([n; 16]),
        epoch: 1,
        key: Secret::new([n; 32]),
    };
    let knocks = [1, 2].map(|n| coterie_control::follow::Knocking {
        key: key(n),
        not_after: UnixTime(n.into()),
    });
    let mut s = Server::new();
    s.join("both", "app-1");
    let communities = [name("web"), name("db")].into();
    let mut all = everything(&s.enclave, &communities, false, NOW);
    all.push(coterie_control::follow::message::knocks(&knocks));
    all.push(coterie_control::follow::message::mark(9));
    all.push(coterie_control::follow::message::renew());
    all.push(coterie_control::follow::message::explain(3, "db-1"));
    for framed in all {
        let body = &framed[4..];
        assert!(Message::parse(body).is_ok());
        assert!(Message::parse(&[body, &[0]].concat()).is_err());
        for end in 0..body.len() {
            assert!(Message::parse(&body[..end]).is_err(), "{end} of {} bytes", body.len());
        }
    }
    let entry = s.enclave.entry(&name("app-1"), &name("web"), NOW).unwrap();
    let tag = s.enclave.tag(&name("web")).unwrap();
    let one = coterie_control::follow::message::entry_message(tag, &entry);
    assert_eq!([one], coterie_control::follow::message::change(tag, &[entry], &[])[..]);
    let asked = coterie_control::follow::message::explain(3, &"ä".repeat(200));
    let Message::Explain { id: 3, destination } = Message::parse(&asked[4..]).unwrap() else {
        panic!("{asked:?}")
    };
    assert_eq!(destination, "ä".repeat(128), "cut between characters");
    let parsed = Message::parse(&coterie_control::follow::message::knocks(&knocks)[4..]).unwrap();
    let Message::Knocks(parsed) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(parsed[1].key.key.expose(), &[2; 32]);
    assert_eq!((parsed[0].not_after, parsed.len()), (UnixTime(1), 2));
}
