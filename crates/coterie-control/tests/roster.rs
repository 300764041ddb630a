//! Members that no file names: they come by tokens and go with their machines.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use coterie_control::{
    bundle::{Bundle, BundleError, Keys, Opened, Request, root_hash},
    issue::{Admission, Enclave, IssueError, Part, Roll},
};
use coterie_crypto::SeededEntropy;
use coterie_model::{Name, UnixTime};

const NOW: UnixTime = UnixTime(1_795_506_345);

const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/29", "fd77::/64"]
[community.web]
[community.db]
[template.web]
communities = ["web"]
[template.db]
communities = ["web", "db"]
door = true
[member.db-1]
template = "db"
addresses = ["10.77.0.1"]
"#;

struct Site {
    enclave: Enclave,
    keys: BTreeMap<u64, Keys>,
    entropy: SeededEntropy,
    /// Of the numbers that keys are made from.
    base: u64,
    /// What a store has that wrote what changed after each operation.
    stored: BTreeMap<(String, String), Vec<u8>>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Site {
    fn new() -> Self {
        let mut entropy = SeededEntropy::from_number(1);
        Self {
            enclave: Enclave::init(FILE, NOW, &mut entropy).unwrap(),
            keys: BTreeMap::new(),
            entropy,
            base: 1000,
            stored: BTreeMap::new(),
        }
    }

    /// Writes what changed, and sees that a store has everything.
    fn store(&mut self) {
        for record in self.enclave.take_records() {
            let at = (record.part.kind().to_owned(), record.part.key().to_owned());
            match record.value {
                Some(value) => drop(self.stored.insert(at, value.to_vec())),
                None => drop(self.stored.remove(&at)),
            }
        }
        let records = self
            .stored
            .iter()
            .map(|((kind, key), value)| (Part::of(kind, key).unwrap(), value.clone().into()));
        let read = Enclave::from_records(records).unwrap();
        let files = |enclave: &Enclave| {
            enclave
                .to_files()
                .into_iter()
                .map(|f| f.bytes.to_vec())
                .collect::<Vec<_>>()
        };
        assert_eq!(files(&read), files(&self.enclave));
    }

    /// A machine with keys of its own, by number, applies.
    fn apply(&mut self, template: &str, member: &str, number: u64) -> Result<Admission, IssueError> {
        self.apply_as(template, member, number, false)
    }

    fn apply_as(&mut self, template: &str, member: &str, number: u64, takeover: bool) -> Result<Admission, IssueError> {
        let (request, endpoint) = self.machine(member, number);
        let template = name(template);
        self.enclave.provision(
            &template,
            vec![endpoint],
            &request,
            takeover,
            draw(&mut self.entropy),
            NOW,
        )
    }

    fn machine(&mut self, member: &str, number: u64) -> (Request, SocketAddr) {
        let keys = Keys::generate(name(member), &mut SeededEntropy::from_number(self.base + number));
        let request = Request::new(&keys).unwrap();
        self.keys.insert(number, keys);
        (request, format!("192.0.2.{number}:4747").parse().unwrap())
    }

    fn open(&mut self, member: &str, number: u64) -> Opened {
        let text = self.enclave.issue(&name(member), NOW, &mut self.entropy).unwrap();
        let bundle = Bundle::parse(text.as_bytes()).unwrap();
        let hash = self.enclave.root_hash();
        bundle.open(&self.keys[&number], Some(hash), NOW, 0).unwrap()
    }

    fn addresses(&self, member: &str) -> Vec<String> {
        let member = self.enclave.members().find(|(n, _)| n.as_str() == member);
        member.map_or_else(Vec::new, |(_, m)| m.addresses.iter().map(ToString::to_string).collect())
    }

    fn reloaded(&self) -> Enclave {
        let files: BTreeMap<_, _> = self
            .enclave
            .to_files()
            .into_iter()
            .map(|f| (f.path, f.bytes.to_vec()))
            .collect();
        Enclave::from_files(|path| files.get(path).cloned()).unwrap()
    }
}

#[test]
fn a_machine_with_a_token_is_a_member_like_any_other() {
    let mut site = Site::new();
    assert_eq!(site.apply("web", "web-7", 7), Ok(Admission::New));
    assert_eq!(site.apply("web", "web-8", 8), Ok(Admission::New));
    assert_eq!(site.apply("db", "db-1", 1), Ok(Admission::New), "the file's member");
    assert_eq!(
        site.apply("web", "web-7", 7),
        Ok(Admission::Known),
        "an answer was lost"
    );

    let opened = site.open("web-7", 7);
    let known: Vec<_> = opened.directory.iter().map(|e| e.name.to_string()).collect();
    assert_eq!(known, ["db-1", "web-8"]);
    assert!(opened.directory.iter().all(|e| e.statements.len() == 1));
    assert_eq!(opened.directory[1].endpoints, ["192.0.2.8:4747".parse().unwrap()]);
    let web = opened.manifests.iter().find(|m| m.name.as_str() == "web").unwrap();
    assert_eq!(web.holders, 3);
    assert_eq!(opened.template.name, name("web"));
    assert_eq!(site.addresses("db-1"), ["10.77.0.1"]);
    assert_eq!(site.addresses("web-7").len(), 2);

    let again = site.reloaded();
    assert_eq!(
        again.members().collect::<Vec<_>>(),
        site.enclave.members().collect::<Vec<_>>()
    );
}

#[test]
fn names_addresses_and_keys_are_one_machines_at_a_time() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    assert_eq!(site.apply("web", "web-7", 8), Err(IssueError::NameInUse(name("web-7"))));
    assert!(matches!(
        site.apply("web", "db-1", 9),
        Err(IssueError::OtherTemplate { .. })
    ));
    assert_eq!(
        site.apply("app", "app-1", 9),
        Err(IssueError::UnknownTemplate(name("app")))
    );
    // Five of the six addresses of the pool are left for tokens.
    let more: Vec<_> = (10..15).map(|n| site.apply("web", &format!("web-{n}"), n)).collect();
    assert_eq!(more[..4], [const { Ok(Admission::New) }; 4]);
    assert_eq!(more[4], Err(IssueError::PoolsUsedUp));
    let mut given: Vec<String> = site
        .enclave
        .members()
        .flat_map(|(n, _)| site.addresses(n.as_str()))
        .collect();
    let all = given.len();
    given.sort();
    given.dedup();
    assert_eq!(given.len(), all, "no address twice");
}

#[test]
fn a_name_is_free_again_when_its_machine_is_gone_and_serials_go_on() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    let (first, before) = (site.open("web-7", 7), site.addresses("web-7"));
    site.enclave.end(&name("web-7"), NOW).unwrap();
    assert_eq!(site.addresses("web-7"), [""; 0]);
    assert!(site.enclave.revocations().is_none(), "it was not removed for cause");
    assert_eq!(
        site.enclave.end(&name("web-7"), NOW),
        Err(IssueError::NotEnrolled(name("web-7")))
    );
    site.enclave = site.reloaded();
    assert_eq!(site.apply("web", "web-7", 70), Ok(Admission::New));
    let second = site.open("web-7", 70);
    assert_eq!(site.addresses("web-7"), before, "a name keeps its address");
    assert!(second.serial > first.serial && second.statements[0].serial > first.statements[0].serial);
    assert_ne!(second.member, first.member);

    // One that is removed for cause is refused as well.
    let held = site.enclave.revoke(&name("web-7"), NOW).unwrap();
    assert_eq!(held, [name("web")]);
    let refused = &site.enclave.revocations().unwrap().entries;
    assert_eq!((refused.len(), refused[0].member), (1, second.member));
    assert_eq!(site.addresses("web-7"), [""; 0]);
    assert!(matches!(site.apply("web", "web-7", 70), Err(IssueError::KeyRevoked(_))));
}

#[test]
fn isolation_refuses_and_release_lets_back_in() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    let web = name("web-7");
    site.enclave.isolate(&web, NOW).unwrap();
    site.enclave.isolate(&web, NOW).unwrap();
    let list = |site: &Site| {
        let list = site.enclave.revocations().unwrap();
        (list.revision, list.entries.len())
    };
    assert_eq!(list(&site), (2, 1));
    site.enclave = site.reloaded();
    let late = NOW.plus(Duration::from_secs(7200));
    assert_eq!(site.enclave.due_for_renewal(late), [], "not while it is isolated");
    assert_eq!(site.enclave.release(&web, late), Ok(true));
    assert_eq!(list(&site), (3, 0), "a higher revision, without it");
    assert_eq!(site.enclave.release(&web, late), Ok(false));
    assert_eq!(site.enclave.due_for_renewal(late), std::slice::from_ref(&web));
    site.enclave.issue(&web, late, &mut site.entropy).unwrap();
    // Whoever goes while it is isolated stays refused.
    site.enclave.isolate(&web, late).unwrap();
    site.enclave.end(&web, late).unwrap();
    assert_eq!(list(&site), (5, 1));
}

#[test]
fn bundles_say_where_the_server_is_and_tokens_where_the_doors_are() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    assert_eq!(site.open("web-7", 7).servers, []);
    site.enclave.take_records();
    let servers: Vec<SocketAddr> = (1..=9).map(|n| format!("10.77.0.6:{n}").parse().unwrap()).collect();
    site.enclave.set_servers(servers.clone());
    let touched: Vec<_> = site.enclave.take_records().into_iter().map(|r| r.part).collect();
    assert_eq!(touched, [Part::File, Part::Enclave], "everybody is told to renew");
    site.enclave.set_servers(servers.clone());
    assert!(site.enclave.take_records().is_empty(), "nothing changed");
    site.enclave = site.reloaded();
    assert_eq!(site.enclave.servers(), &servers[..8]);
    assert_eq!(site.open("web-7", 7).servers, servers[..8]);
    site.enclave.touch_all();
    site.store();

    assert_eq!(site.enclave.doors(), [], "none of a door template is enrolled");
    let by_hand = site.machine("db-1", 1).0;
    site.enclave.admit(&by_hand, NOW, &mut site.entropy).unwrap();
    assert_eq!(site.enclave.doors(), [], "the file's member has no endpoint");
    site.apply("db", "db-2", 2).unwrap();
    let (door, key) = (name("db-2"), *site.keys[&2].static_key().public());
    let all = site.enclave.doors();
    assert_eq!((all.len(), all[0].0), (1, &door));
    assert_eq!(
        (all[0].1.endpoint, all[0].1.static_key),
        ("192.0.2.2:4747".parse().unwrap(), key)
    );
    site.enclave.isolate(&door, NOW).unwrap();
    assert_eq!(site.enclave.doors(), []);
}

#[test]
fn a_machine_that_was_made_anew_takes_its_name_over() {
    let mut site = Site::new();
    for (template, member) in [("web", "web-7"), ("db", "db-1")] {
        assert_eq!(site.apply_as(template, member, 7, true), Ok(Admission::New));
        let (first, before) = (site.open(member, 7), site.addresses(member));
        site.store();
        let taken = site.apply_as(template, member, 8, false);
        assert_eq!(taken, Err(IssueError::NameInUse(name(member))));
        assert_eq!(site.apply_as(template, member, 7, true), Ok(Admission::Known));
        assert_eq!(site.apply_as(template, member, 8, true), Ok(Admission::Replaced));
        site.store();
        let second = site.open(member, 8);
        assert!(second.serial > first.serial && second.member != first.member);
        assert_eq!(site.addresses(member), before);
        let refused = second.revocations.unwrap();
        let old = *site.keys[&7].static_key().public();
        assert!(refused.entries.iter().any(|e| e.static_key == old));
        assert!(matches!(
            site.apply_as(template, member, 7, true),
            Err(IssueError::KeyRevoked(_))
        ));
        let endpoints = |m: &str| {
            site.enclave
                .members()
                .find(|(n, _)| n.as_str() == m)
                .unwrap()
                .1
                .endpoints
                .clone()
        };
        assert_eq!(endpoints(member), ["192.0.2.8:4747".parse().unwrap()]);

        site.enclave.isolate(&name(member), NOW).unwrap();
        let taken = site.apply_as(template, member, 9, true);
        assert_eq!(taken, Err(IssueError::Isolated(name(member))));
        // The next one has keys of its own again.
        site.enclave.end(&name(member), NOW).unwrap();
        (7..10).for_each(|n| drop(site.keys.remove(&n)));
        site.base += 100;
    }
}

#[test]
fn a_member_renews_with_its_keys_and_a_sealing_key_for_once() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    site.apply("web", "web-8", 8).unwrap();
    let first = site.open("web-7", 7);
    assert!(first.has_views);
    site.enclave.take_records();

    let keys = site.keys[&7].for_delivery(&mut site.entropy);
    let request = Request::new(&keys).unwrap();
    let soon = NOW.plus(Duration::from_secs(60));
    let text = site.enclave.renew(&request, soon, &mut site.entropy).unwrap();
    let bundle = Bundle::parse(text.as_bytes()).unwrap();
    assert!(
        bundle.open(&site.keys[&7], None, soon, 0).is_err(),
        "sealed to the new key"
    );
    let opened = bundle.open(&keys, None, soon, first.serial + 1).unwrap();
    assert_eq!((opened.has_views, opened.directory.len()), (false, 0));
    assert_eq!(opened.statements, first.statements, "with most of a lease to run");
    assert_eq!((opened.not_after, opened.issued), (first.not_after, soon));
    let told: BTreeSet<Name> = site
        .enclave
        .take_records()
        .into_iter()
        .flat_map(|r| r.concerns)
        .collect();
    assert_eq!(told, BTreeSet::new(), "nothing changed for others");

    let late = NOW.plus(Duration::from_secs(1800));
    let text = site.enclave.renew(&request, late, &mut site.entropy).unwrap();
    let opened = Bundle::parse(text.as_bytes())
        .unwrap()
        .open(&keys, None, late, 0)
        .unwrap();
    assert!(opened.statements[0].serial > first.statements[0].serial);
    assert_eq!(opened.not_after, late.plus(Duration::from_secs(3600)));
    let told: BTreeSet<Name> = site
        .enclave
        .take_records()
        .into_iter()
        .flat_map(|r| r.concerns)
        .collect();
    assert_eq!(told, [name("web")].into());

    let renew = |site: &mut Site, request: &Request| site.enclave.renew(request, late, &mut site.entropy).unwrap_err();
    let (stranger, _) = site.machine("web-7", 9);
    assert_eq!(renew(&mut site, &stranger), IssueError::NotEnrolled(name("web-7")));
    let (nobody, _) = site.machine("web-9", 9);
    assert_eq!(renew(&mut site, &nobody), IssueError::NotEnrolled(name("web-9")));
    site.enclave.isolate(&name("web-7"), late).unwrap();
    assert_eq!(renew(&mut site, &request), IssueError::Isolated(name("web-7")));
    site.enclave.revoke(&name("web-7"), late).unwrap();
    assert!(matches!(renew(&mut site, &request), IssueError::KeyRevoked(_)));
}

#[test]
fn a_new_root_is_believed_by_the_word_of_the_old_one() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    let (first, pinned) = (site.open("web-7", 7), site.enclave.root_hash());
    site.store();
    let mut pins = vec![pinned];
    let hour = Duration::from_secs(3600);
    for rotation in 1..=4 {
        let now = NOW.plus(Duration::from_secs(rotation));
        site.enclave.rotate_root(now, &mut site.entropy).unwrap();
        site.store();
        site.enclave = site.reloaded();
        pins.push(site.enclave.root_hash());
    }
    let text = site.enclave.issue(&name("web-7"), NOW, &mut site.entropy).unwrap();
    let bundle = Bundle::parse(text.as_bytes()).unwrap();
    for pin in &pins {
        let opened = bundle.open(&site.keys[&7], Some(*pin), NOW, first.serial).unwrap();
        assert_eq!(root_hash(&opened.root), pins[4]);
        assert_ne!(opened.root, first.root);
        // What runs goes on: era, enclave, statement key and keys of communities are the same.
        let lasts = |o: &Opened| {
            (
                o.authority.era,
                o.authority.enclave,
                o.authority.statement_key,
                o.member,
            )
        };
        assert_eq!(lasts(&opened), lasts(&first));
        assert_eq!(opened.keys[0].key.expose(), first.keys[0].key.expose());
        assert_eq!(opened.manifests, first.manifests);
    }
    let foreign = bundle.open(&site.keys[&7], Some([7; 32]), NOW, 0);
    assert!(matches!(foreign, Err(BundleError::Foreign { .. })), "{foreign:?}");

    // The first root is forgotten when it can be nobody's any more.
    let soon = NOW.plus(hour / 2);
    let refused = site.enclave.rotate_root(soon, &mut site.entropy).unwrap_err();
    assert!(
        matches!(refused, IssueError::RootsInUse(until) if until > soon),
        "{refused}"
    );
    let later = NOW.plus(hour * 2);
    site.enclave.rotate_root(later, &mut site.entropy).unwrap();
    site.store();
    let text = site.enclave.issue(&name("web-7"), later, &mut site.entropy).unwrap();
    let bundle = Bundle::parse(text.as_bytes()).unwrap();
    let open = |pin| bundle.open(&site.keys[&7], Some(pin), later, 0);
    assert!(matches!(open(pins[0]), Err(BundleError::Foreign { .. })));
    assert!(pins[1..].iter().all(|pin| open(*pin).is_ok()));
}

#[test]
fn a_state_that_nobody_makes_is_refused() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    site.apply("web", "web-8", 8).unwrap();
    site.enclave.rotate_root(NOW, &mut site.entropy).unwrap();
    site.store();
    let (seven, eight) = (site.addresses("web-7")[0].clone(), site.addresses("web-8")[0].clone());
    let changed = |kind: &str, key: &str, from: &str, to: &str| {
        let records = site.stored.iter().map(|((k, n), value)| {
            let mut value = String::from_utf8_lossy(value).into_owned().into_bytes();
            if (k.as_str(), n.as_str()) == (kind, key) {
                let text = String::from_utf8(value).unwrap();
                assert!(text.contains(from), "{text}");
                value = text.replace(from, to).into_bytes();
            } else {
                value = site.stored[&(k.clone(), n.clone())].clone();
            }
            (Part::of(k, n).unwrap(), value.into())
        });
        Enclave::from_records(records)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(changed("file", "", "shop", "shop"), Ok(()));
    let most = u64::MAX.to_string();
    for (kind, key, from, to, said) in [
        ("file", "", "\"shop\"", "\"other\"", "the file is of enclave `other`"),
        (
            "enclave",
            "",
            "\"floor\":0",
            &format!("\"floor\":{most}"),
            "the floor of serials",
        ),
        (
            "member",
            "web-7",
            "\"serial\":0",
            &format!("\"serial\":{most}"),
            "the serial of `web-7`",
        ),
        (
            "member",
            "web-7",
            "\"statement_serial\":1",
            "\"statement_serial\":0",
            "newer than its newest",
        ),
        (
            "member",
            "web-7",
            "\"statement_serial\":1",
            &format!("\"statement_serial\":{most}"),
            "serial of statements",
        ),
        ("member", "web-7", &seven, &eight, "the same address"),
        ("member", "web-7", &seven, "10.77.0.1", "the same address"),
        ("enclave", "", "\"succession\":\"B", "\"succession\":\"A", "succession"),
    ] {
        let error = changed(kind, key, from, to).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn an_application_that_is_shown_again_changes_nothing_for_others() {
    let later = NOW.plus(Duration::from_secs(1000));
    let again = |site: &mut Site| {
        site.apply("web", "web-7", 7).unwrap();
        let first = site.open("web-7", 7);
        site.enclave.take_records();
        let request = Request::new(&site.keys[&7]).unwrap();
        let member = draw(&mut site.entropy);
        let shown = site
            .enclave
            .provision(&name("web"), vec![], &request, false, member, later);
        assert_eq!(shown, Ok(Admission::Known));
        let text = site.enclave.issue(&name("web-7"), later, &mut site.entropy).unwrap();
        let bundle = Bundle::parse(text.as_bytes()).unwrap();
        let second = bundle.open(&site.keys[&7], None, later, first.serial + 1).unwrap();
        let told: BTreeSet<Name> = site
            .enclave
            .take_records()
            .into_iter()
            .flat_map(|r| r.concerns)
            .collect();
        (first, second, told)
    };
    // By a door, say, while the machine has had its answer long ago and knows nothing of this one.
    let mut served = Site::new();
    served.enclave.serve(NOW).unwrap();
    let (first, second, told) = again(&mut served);
    assert_eq!((first.statements, told), (second.statements, BTreeSet::new()));
    // Without a server nobody renews them later.
    let (first, second, _) = again(&mut Site::new());
    assert!(second.statements[0].serial > first.statements[0].serial);
}

#[test]
fn the_file_and_the_tokens_agree() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    let taken = site.addresses("web-7")[0].clone();
    let clash = format!("{FILE}[member.late]\ntemplate = \"web\"\naddresses = [\"{taken}\"]\n");
    let refused = site.enclave.update(&clash, NOW, &mut site.entropy);
    assert!(matches!(refused, Err(IssueError::AddressInUse { .. })), "{refused:?}");
    // A template that is given another community takes its members along; one that is gone ends them.
    let wider = FILE.replace(
        "[template.web]\ncommunities = [\"web\"]",
        "[template.web]\ncommunities = [\"web\", \"db\"]",
    );
    site.enclave.update(&wider, NOW, &mut site.entropy).unwrap();
    assert_eq!(site.open("web-7", 7).keys.len(), 2);
    let gone = FILE.replace("[template.web]\ncommunities = [\"web\"]\n", "");
    let changes = site.enclave.update(&gone, NOW, &mut site.entropy).unwrap();
    assert_eq!(changes.revoked, [name("web-7")].into());
    assert_eq!(site.addresses("web-7"), [""; 0]);
    assert_eq!(
        changes.rolled.iter().map(Name::as_str).collect::<Vec<_>>(),
        ["db", "web"]
    );
}

#[test]
fn a_store_that_writes_what_changed_has_everything() {
    let mut site = Site::new();
    site.store();
    assert!(site.enclave.take_records().is_empty(), "nothing changed");
    for number in 7..10 {
        site.apply("web", &format!("web-{number}"), number).unwrap();
        site.store();
    }
    let few = {
        site.open("web-7", 7);
        site.enclave.take_records()
    };
    let parts: Vec<_> = few.iter().map(|r| r.part.kind()).collect();
    assert_eq!(
        parts,
        ["community", "member"],
        "the key is handed out, the serial has grown"
    );
    let mut site = Site {
        stored: site.stored,
        ..Site::new()
    };
    site.stored.clear();
    site.store();
    site.apply("db", "db-1", 1).unwrap();
    site.apply("web", "web-7", 7).unwrap();
    site.store();
    let late = |seconds| NOW.plus(Duration::from_secs(seconds));
    let scheduled = Roll::Scheduled {
        activates_in: Duration::from_secs(60),
    };
    site.enclave
        .roll(&name("web"), scheduled, NOW, &mut site.entropy)
        .unwrap();
    site.store();
    site.open("web-7", 7);
    site.store();
    site.enclave
        .roll(&name("web"), Roll::Removal, late(100), &mut site.entropy)
        .unwrap();
    site.store();
    site.enclave.isolate(&name("web-7"), late(200)).unwrap();
    site.store();
    site.enclave.release(&name("web-7"), late(300)).unwrap();
    site.store();
    assert_eq!(site.enclave.due_for_renewal(late(3000)).len(), 2);
    site.enclave.serve(late(3000)).unwrap();
    site.store();
    site.enclave.revoke(&name("db-1"), late(3100)).unwrap();
    site.store();
    site.enclave.end(&name("web-7"), late(3200)).unwrap();
    site.store();
    let without_db = FILE
        .replace("[community.db]\n", "")
        .replace("communities = [\"web\", \"db\"]", "communities = [\"web\"]");
    site.enclave.update(&without_db, late(3300), &mut site.entropy).unwrap();
    site.store();
    assert!(!site.stored.keys().any(|(_, key)| key == "db" || key == "web-7"));
}

#[test]
fn after_a_backup_was_restored_what_is_given_out_is_newer_than_all_that_was() {
    let mut site = Site::new();
    site.enclave.serve(NOW).unwrap();
    site.apply("web", "web-7", 7).unwrap();
    site.apply("db", "db-1", 1).unwrap();
    site.open("web-7", 7);
    site.store();
    let backup = site.stored.clone();
    for round in 0..5 {
        site.enclave
            .roll(&name("web"), Roll::Removal, NOW, &mut site.entropy)
            .unwrap();
        site.enclave.isolate(&name("db-1"), NOW).unwrap();
        site.enclave.release(&name("db-1"), NOW).unwrap();
        site.open("web-7", 7);
        // A name that comes and goes raises the serials of those who come after it.
        site.apply("web", "web-8", 80 + round).unwrap();
        site.enclave.end(&name("web-8"), NOW).unwrap();
    }
    let last = site.open("web-7", 7);
    let epoch = |opened: &Opened| opened.keys.iter().map(|key| key.epoch).max().unwrap();

    let records = backup
        .into_iter()
        .map(|((kind, key), value)| (Part::of(&kind, &key).unwrap(), value.into()));
    site.enclave = Enclave::from_records(records).unwrap();
    let later = NOW.plus(Duration::from_secs(3));
    site.enclave.recover(later, &mut site.entropy).unwrap();
    site.store();
    let next = site.open("web-7", 7);
    assert!(next.serial > last.serial && epoch(&next) > epoch(&last));
    assert!(next.statements[0].serial > last.statements[0].serial);
    let revision = |opened: &Opened| opened.revocations.as_ref().unwrap().revision;
    assert!(revision(&next) > revision(&last));
    let others: Vec<_> = next.directory.iter().flat_map(|entry| &entry.statements).collect();
    let known: Vec<_> = last.directory.iter().flat_map(|entry| &entry.statements).collect();
    assert!(others[0].serial > known[0].serial, "of others too");
    // What was handed out before opens nothing after the grace of a removal.
    let grace = later.plus(coterie_control::issue::REMOVAL_GRACE);
    let web = name("web");
    let live = site.enclave.live_manifests(&web, grace);
    assert_eq!(
        live.iter().map(|manifest| manifest.epoch).collect::<Vec<_>>(),
        [epoch(&next)]
    );
    assert!(matches!(site.apply("web", "web-9", 9), Ok(Admission::New)));
    assert!(site.open("web-9", 9).statements[0].serial > last.statements[0].serial);
}

#[test]
fn serials_go_on_whoever_has_the_name_and_whence() {
    let mut site = Site::new();
    // From the file to a token.
    site.apply("db", "db-1", 1).unwrap();
    (0..4).for_each(|_| drop(site.open("db-1", 1)));
    let last = site.open("db-1", 1);
    let without = FILE.replace("[member.db-1]\ntemplate = \"db\"\naddresses = [\"10.77.0.1\"]\n", "");
    site.enclave.update(&without, NOW, &mut site.entropy).unwrap();
    site.apply("db", "db-1", 2).unwrap();
    let next = site.open("db-1", 2);
    assert!(next.serial > last.serial && next.statements[0].serial > last.statements[0].serial);
    // From a token to the file.
    site.enclave.end(&name("db-1"), NOW).unwrap();
    site.enclave.update(FILE, NOW, &mut site.entropy).unwrap();
    site.apply("db", "db-1", 3).unwrap();
    let last = site.open("db-1", 3);
    assert!(last.serial > next.serial && last.statements[0].serial > next.statements[0].serial);
}

#[test]
fn an_address_that_a_statement_names_is_nobody_elses() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    let before = site.addresses("web-7")[0].clone();
    // The file takes the name over, with another address, and gives it up again.
    let named = format!("{FILE}[member.web-7]\ntemplate = \"web\"\naddresses = [\"10.77.0.6\"]\n");
    assert_ne!(before, "10.77.0.6");
    site.enclave.update(&named, NOW, &mut site.entropy).unwrap();
    assert_eq!(site.addresses("web-7"), ["10.77.0.6"]);
    let fill = |site: &mut Site, from: u64| {
        let tries = from..from + 8;
        let came = tries
            .filter(|n| site.apply("web", &format!("x-{n}"), *n).is_ok())
            .count();
        let mut all: Vec<_> = site.enclave.members().flat_map(|(_, m)| m.addresses.clone()).collect();
        let given = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), given, "no address twice");
        (came, all.contains(&before.parse().unwrap()))
    };
    // Six addresses: two are named by the file, one rests, three are left.
    assert_eq!(fill(&mut site, 30), (3, false));
    site.enclave.update(FILE, NOW, &mut site.entropy).unwrap();
    site.enclave = site.reloaded();
    assert_eq!(fill(&mut site, 40), (1, false), "no statement ever named 10.77.0.6");
}

#[test]
fn who_is_isolated_gets_neither_bundle_nor_new_keys_in() {
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    let web = name("web-7");
    site.enclave.isolate(&web, NOW).unwrap();
    let issued = site.enclave.issue(&web, NOW, &mut site.entropy);
    assert_eq!(issued.unwrap_err(), IssueError::Isolated(web.clone()));
    assert!(matches!(site.apply("web", "web-7", 7), Err(IssueError::KeyRevoked(_))));
    let (request, _) = site.machine("web-7", 8);
    let admitted = site.enclave.admit(&request, NOW, &mut site.entropy);
    assert_eq!(admitted, Err(IssueError::Isolated(web)));
}

/// The identifier of an enrolment to come.
fn draw(entropy: &mut dyn coterie_crypto::Entropy) -> coterie_model::MemberId {
    let mut member = coterie_model::MemberId::default();
    entropy.fill(&mut member.0);
    member
}

#[test]
fn a_member_that_the_file_names_without_endpoints_is_where_it_applied_from() {
    let endpoints = |site: &Site, member: &str| {
        let found = site.enclave.members().find(|(n, _)| n.as_str() == member);
        let all = found.unwrap().1.endpoints.iter();
        all.map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut site = Site::new();
    site.apply("web", "web-7", 7).unwrap();
    assert_eq!(site.apply("db", "db-1", 1), Ok(Admission::New));
    assert_eq!(endpoints(&site, "db-1"), ["192.0.2.1:4747"]);
    assert_eq!(site.open("web-7", 7).directory[0].endpoints.len(), 1, "others are told");
    site.store();
    site.enclave = site.reloaded();
    assert_eq!(endpoints(&site, "db-1"), ["192.0.2.1:4747"]);
    // What the file says wins, and what was seen is there when it says nothing again.
    let says = FILE.replace("[member.db-1]", "[member.db-1]\nendpoints = [\"198.51.100.9:4747\"]");
    site.enclave.update(&says, NOW, &mut site.entropy).unwrap();
    assert_eq!(endpoints(&site, "db-1"), ["198.51.100.9:4747"]);
    assert_eq!(site.apply_as("db", "db-1", 2, true), Ok(Admission::Replaced));
    assert_eq!(endpoints(&site, "db-1"), ["198.51.100.9:4747"]);
    site.enclave.update(FILE, NOW, &mut site.entropy).unwrap();
    assert_eq!(endpoints(&site, "db-1"), ["192.0.2.2:4747"]);
    // A name that the file takes over keeps its machine's.
    let takes = format!("{FILE}[member.web-7]\ntemplate = \"web\"\n");
    site.enclave.update(&takes, NOW, &mut site.entropy).unwrap();
    assert_eq!(endpoints(&site, "web-7"), ["192.0.2.7:4747"]);
    site.enclave.touch_all();
    site.store();
    // Nothing is known of where a machine is that was enrolled by hand, or is none.
    let by_hand = site.machine("db-1", 3).0;
    site.enclave.admit(&by_hand, NOW, &mut site.entropy).unwrap();
    assert!(endpoints(&site, "db-1").is_empty());
    site.enclave.end(&name("web-7"), NOW).unwrap();
    assert!(endpoints(&site, "web-7").is_empty());
}

impl Site {
    /// A machine with new keys comes for a name, as by ticket or when its holder has left it.
    fn come(&mut self, member: &str, now: UnixTime) -> Result<Admission, IssueError> {
        self.base += 1;
        let (request, endpoint) = self.machine(member, 2);
        let id = draw(&mut self.entropy);
        self.enclave
            .provision(&name("web"), vec![endpoint], &request, true, id, now)
    }

    fn refused(&self) -> Vec<coterie_model::Revocation> {
        let list = self.enclave.revocations();
        list.map_or_else(Vec::new, |list| list.entries.clone())
    }

    fn files(&self) -> Vec<Vec<u8>> {
        let files = self.enclave.to_files();
        files.into_iter().map(|file| file.bytes.to_vec()).collect()
    }
}

#[test]
fn however_often_machines_take_names_over_an_administrator_finds_room() {
    let mut entropy = SeededEntropy::from_number(2);
    let text = FILE.replace("10.77.0.0/29", "10.77.0.0/16");
    let mut site = Site {
        enclave: Enclave::init(&text, NOW, &mut entropy).unwrap(),
        ..Site::new()
    };
    site.apply("db", "db-1", 1).unwrap();
    site.base += 1000;
    let at = |seconds| NOW.plus(Duration::from_secs(seconds));

    // One name: ten times, then no more, and nothing has changed.
    site.come("web-0", NOW).unwrap();
    for _ in 0..10 {
        assert_eq!(site.come("web-0", NOW), Ok(Admission::Replaced));
    }
    site.store();
    let before = site.files();
    for _ in 0..10 {
        assert_eq!(site.come("web-0", NOW), Err(IssueError::TooOften(name("web-0"))));
    }
    assert_eq!(site.files(), before);
    assert!(site.enclave.take_records().is_empty());

    // All of a hundred names, twenty times each: two thirds of the list and not more.
    let mut replaced = 10;
    for number in 1..100 {
        let (member, now) = (format!("web-{number}"), if number < 30 { NOW } else { at(60) });
        site.come(&member, now).unwrap();
        for _ in 0..20 {
            match site.come(&member, now) {
                Ok(admission) => {
                    assert_eq!(admission, Admission::Replaced);
                    replaced += 1;
                }
                Err(error) => assert!(
                    matches!(error, IssueError::TooOften(_) | IssueError::TooManyReplacements(_)),
                    "{error}"
                ),
            }
        }
    }
    assert_eq!((replaced, site.refused().len()), (600, 600));
    site.store();
    let before = site.files();
    let full = site.come("web-99", at(60));
    assert_eq!(full, Err(IssueError::TooManyReplacements(name("web-99"))));
    assert_eq!(site.files(), before);

    site.enclave.isolate(&name("db-1"), at(60)).unwrap();
    let mut removed: Vec<[u8; 32]> = vec![*site.enclave.static_key(&name("db-1")).unwrap()];
    for _ in 0..4 {
        for number in 0..100 {
            let member = name(&format!("web-{number}"));
            removed.push(*site.enclave.static_key(&member).unwrap());
            site.enclave.revoke(&member, at(60)).unwrap();
            assert_eq!(site.come(member.as_str(), at(60)), Ok(Admission::New));
        }
    }
    site.store();
    let list = site.refused();
    assert_eq!(list.len(), 900);
    assert!(
        removed.iter().all(|key| list.iter().any(|e| e.static_key == *key)),
        "an administrator's word stays"
    );
    let first = list.iter().map(|e| e.until).min().unwrap();
    let ending_first = list.iter().filter(|e| e.until == first).count();
    // Of the 300 that were taken over first; with those of the first thirty names that were revoked after it.
    assert_eq!(ending_first, 300 - 101 + 30, "those that end first gave way");
    // A new file finds room too.
    let without = text.replace("[member.db-1]\ntemplate = \"db\"\naddresses = [\"10.77.0.1\"]\n", "");
    let changes = site.enclave.update(&without, at(60), &mut site.entropy).unwrap();
    assert_eq!(changes.revoked, [name("db-1")].into());
    assert!(matches!(
        site.come("web-5", at(60)),
        Err(IssueError::TooManyReplacements(_))
    ));

    // When the statements have ended, everything begins anew.
    let late = at(2 * 3600);
    site.enclave.issue(&name("web-5"), late, &mut site.entropy).unwrap();
    assert_eq!(site.come("web-5", late), Ok(Admission::Replaced));
    assert_eq!(site.refused().len(), 1);
    site.store();
}
