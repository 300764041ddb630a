//! An enclave issued offline, from the example file to what every node opens.

mod bundle_site;

use std::{collections::BTreeSet, time::Duration};

use bundle_site::{LEASE, NOW, Site, later, name};
use coterie_control::{
    bundle::{Bundle, BundleError, Freshness, Keys, Request},
    issue::{Admission, Enclave, IssueError, Roll, WRITTEN},
};
use coterie_crypto::SeededEntropy;
use coterie_model::{CommunityTag, EpochKind, UnixTime};

#[test]
fn every_member_opens_its_bundle_and_nothing_else() {
    let site = Site::enrolled();
    let hash = site.enclave.root_hash();
    for member in site.members() {
        let opened = site.open(&member, NOW);
        let policy = &site.enclave.file().members[&member];
        assert_eq!(opened.name, member);
        assert_eq!(opened.authority.name.as_str(), "shop");
        assert_eq!(coterie_control::bundle::root_hash(&opened.root), hash);
        assert_eq!((opened.issued, opened.not_after), (NOW, later(LEASE)));
        assert_eq!(
            (opened.port, opened.mtu, opened.freshness),
            (4747, None, Freshness::Offline)
        );
        assert_eq!(opened.pools.len(), 2);
        assert_eq!(opened.template.name, policy.template);
        assert!(opened.template.lockdown);

        // One statement, one manifest and one key for each community of the file.
        let communities: BTreeSet<_> = opened.manifests.iter().map(|m| m.name.clone()).collect();
        assert_eq!(communities, policy.communities);
        let tags = |it: &mut dyn Iterator<Item = CommunityTag>| it.collect::<BTreeSet<_>>();
        let stated = tags(&mut opened.statements.iter().map(|s| s.tag));
        assert_eq!(stated, tags(&mut opened.keys.iter().map(|k| k.tag)));
        assert_eq!(stated.len(), policy.communities.len());
        for statement in &opened.statements {
            let addresses: Vec<_> = statement.addresses.iter().map(|p| p.addr()).collect();
            assert_eq!(addresses, policy.addresses);
            assert_eq!((statement.member, statement.not_after), (opened.member, later(LEASE)));
        }
        // Holders are the members in the file.
        for manifest in &opened.manifests {
            let members = site
                .enclave
                .file()
                .members
                .values()
                .filter(|m| m.communities.contains(&manifest.name));
            assert_eq!(usize::try_from(manifest.holders).unwrap(), members.count());
        }
        // Nobody else's keys open it.
        for other in site.members().into_iter().filter(|other| *other != member) {
            let error = site.try_open_with(&member, &other, NOW).unwrap_err();
            assert!(
                matches!(
                    error,
                    BundleError::WrongMachine {
                        field: "static key",
                        ..
                    }
                ),
                "{error}"
            );
        }
    }
}

#[test]
fn members_of_one_community_hold_one_key_and_know_each_other() {
    let site = Site::enrolled();
    let (web, app, db) = (site.open_now("web-1"), site.open_now("app-1"), site.open_now("db-1"));
    let key = |opened: &coterie_control::bundle::Opened, community: &str| {
        let manifest = opened.manifests.iter().find(|m| m.name.as_str() == community)?;
        let key = opened
            .keys
            .iter()
            .find(|k| k.tag == manifest.tag && k.epoch == manifest.epoch)?;
        Some(*key.key.expose())
    };
    assert!(key(&web, "web-app").is_some());
    assert_eq!(key(&web, "web-app"), key(&app, "web-app"));
    assert_eq!(key(&app, "app-db"), key(&db, "app-db"));
    assert_eq!(key(&web, "app-db"), None);
    assert_eq!(key(&db, "web-app"), None);

    let known = |opened: &coterie_control::bundle::Opened| -> Vec<String> {
        opened.directory.iter().map(|e| e.name.to_string()).collect()
    };
    assert_eq!(known(&web), ["app-1", "app-2", "app-3", "web-2"]);
    assert_eq!(known(&db), ["app-1", "app-2", "app-3", "db-2"]);
    let peer = app.directory.iter().find(|e| e.name.as_str() == "db-1").unwrap();
    assert_eq!(peer.endpoints, ["192.0.2.31:4747".parse().unwrap()]);
    // Both communities that app-1 and db-1 share, each with a statement of db-1's own key.
    assert_eq!((peer.communities.len(), peer.statements.len()), (2, 2));
    assert!(
        peer.statements
            .iter()
            .all(|s| s.static_key == *site.keys["db-1"].static_key().public())
    );
}

#[test]
fn a_leaked_community_key_opens_no_other_bundle() {
    // web-1 knows the key of `web-app`. The bundle of app-1 in its hands opens under app-1's own keys alone, whichever of
    // them it lacks.
    let site = Site::enrolled();
    let bundle = Bundle::parse(site.bundles["app-1"].as_bytes()).unwrap();
    let mixed = |static_of: &str, opening_of: &str, identity_of: &str| {
        bundle_site::mixed_keys(&site.keys[static_of], &site.keys[opening_of], &site.keys[identity_of])
    };
    assert!(bundle.open(&mixed("app-1", "app-1", "app-1"), None, NOW, 0).is_ok());
    for (keys, field) in [
        (mixed("web-1", "app-1", "app-1"), "static key"),
        (mixed("app-1", "web-1", "app-1"), "wrapped keys"),
        (mixed("app-1", "app-1", "web-1"), "identity certificate"),
    ] {
        let error = bundle.open(&keys, None, NOW, 0).unwrap_err();
        assert!(
            matches!(error, BundleError::WrongMachine { field: found, .. } if found == field),
            "{error}"
        );
    }

    // Nor does any community key unwrap another: label, epoch and wrapped key stand at the extension's end.
    let (web, app) = (site.open_now("web-1"), site.open_now("app-1"));
    let certificate = x509_parser::parse_x509_certificate(&app.bundle_certificate).unwrap().1;
    let oid = x509_parser::asn1_rs::Oid::from(&[2, 25, 10_924_977_473_235_225_402, 1]).unwrap();
    let extension = certificate.get_extension_unique(&oid).unwrap().unwrap();
    let wrapped = &extension.value[extension.value.len() - 64 * app.keys.len()..];
    let candidates: Vec<_> = web.keys.iter().chain(&app.keys).map(|k| &k.key).collect();
    for (entry, key) in wrapped.chunks(64).zip(&app.keys) {
        assert_eq!(entry[16..24], key.epoch.to_be_bytes());
        let entry: &[u8; 40] = entry[24..].try_into().unwrap();
        assert!(
            candidates
                .iter()
                .all(|candidate| coterie_crypto::wrap::unwrap(candidate, entry).is_err())
        );
    }
}

#[test]
fn neither_tags_nor_keys_stand_in_a_bundle_certificate() {
    let site = Site::enrolled();
    let first = site.open_now("app-1");
    let contains = |haystack: &[u8], needle: &[u8]| haystack.windows(needle.len()).any(|w| w == needle);
    for key in &first.keys {
        assert!(!contains(&first.bundle_certificate, &key.tag.0));
        assert!(!contains(&first.bundle_certificate, key.key.expose()));
        assert!(!contains(&first.identity_certificate, &key.tag.0));
    }
    assert!(
        first.identity_certificate.len() < 600,
        "the identity certificate carries no keys"
    );
}

#[test]
fn the_same_keys_get_newer_statements_and_a_newer_bundle() {
    let mut site = Site::enrolled();
    let before = site.open_now("web-1");
    let later = later(Duration::from_secs(600));
    assert_eq!(site.admit("web-1", later), Ok(Admission::Known));
    site.issue("web-1", later);
    let after = site.open(&name("web-1"), later);
    assert_eq!(after.member, before.member);
    assert!(after.serial > before.serial);
    for (old, new) in before.statements.iter().zip(&after.statements) {
        assert_eq!(old.tag, new.tag);
        assert!(new.serial > old.serial && new.not_after > old.not_after);
    }
    assert!(after.revocations.is_none());
    // The older one is refused from now on.
    let error = site
        .enclave_root_open(&site.history[&name("web-1")][0], "web-1", NOW, after.serial)
        .unwrap_err();
    assert!(
        matches!(error, BundleError::RolledBack { serial, floor, .. } if (serial, floor) == (before.serial, after.serial)),
        "{error}"
    );
}

#[test]
fn new_keys_are_a_new_member_and_the_old_key_is_revoked() {
    let mut site = Site::enrolled();
    let before = site.open_now("web-1");
    let old_key = *site.keys["web-1"].static_key().public();
    let old_request = site.requests["web-1"].clone();
    site.new_keys("web-1", 99);
    let later = later(Duration::from_secs(60));
    assert_eq!(site.admit("web-1", later), Ok(Admission::Replaced));
    site.issue("web-1", later);
    site.issue("app-1", later);
    let after = site.open(&name("web-1"), later);
    assert_ne!(after.member, before.member);
    assert!(after.serial > before.serial);
    assert!(after.statements.iter().all(|s| s.serial > before.statements[0].serial));

    let list = site.open(&name("app-1"), later).revocations.unwrap();
    assert_eq!(list.revision, 1);
    let [entry] = &list.entries[..] else {
        panic!("one entry, not {}", list.entries.len())
    };
    assert_eq!(
        (entry.member, entry.static_key, entry.until),
        (before.member, old_key, before.not_after)
    );
    // The old keys do not come back.
    assert_eq!(
        site.enclave
            .admit(&old_request, later, &mut SeededEntropy::from_number(5)),
        Err(IssueError::KeyRevoked(before.not_after))
    );
    // The entry leaves the list with the next change after the statement has ended.
    let end = UnixTime(before.not_after.0 + 1);
    site.enclave.revoke(&name("app-2"), end).unwrap();
    let list = site.enclave.revocations().unwrap();
    assert_eq!(list.revision, 2);
    assert!(list.entries.iter().all(|e| e.static_key != old_key));
}

#[test]
fn a_static_key_belongs_to_one_member() {
    let mut site = Site::enrolled();
    let stolen = bundle_site::mixed_keys(&site.keys["db-1"], &site.keys["web-1"], &site.keys["web-1"]);
    let request = Request::new(&bundle_site::renamed(&stolen, "web-1")).unwrap();
    let error = site
        .enclave
        .admit(&request, NOW, &mut SeededEntropy::from_number(6))
        .unwrap_err();
    assert_eq!(error, IssueError::KeyInUse(name("db-1")));
    let stranger = Keys::generate(name("nobody"), &mut SeededEntropy::from_number(7));
    let error = site.enclave.admit(
        &Request::new(&stranger).unwrap(),
        NOW,
        &mut SeededEntropy::from_number(8),
    );
    assert_eq!(error, Err(IssueError::UnknownMember(name("nobody"))));
}

#[test]
fn a_scheduled_roll_hands_the_next_key_out_ahead() {
    let mut site = Site::enrolled();
    let before = site.open_now("web-1");
    let overlap = LEASE * 2;
    let rolled = site
        .roll("web", Roll::Scheduled { activates_in: overlap }, NOW)
        .unwrap();
    assert_eq!((rolled.epoch, rolled.activates), (2, later(overlap)));
    assert!(matches!(
        site.roll("web", Roll::Scheduled { activates_in: overlap }, NOW),
        Err(IssueError::NextPending { epoch: 2, .. })
    ));
    site.issue("web-1", NOW);
    let opened = site.open(&name("web-1"), NOW);
    let tag = before.manifests.iter().find(|m| m.name.as_str() == "web").unwrap().tag;
    let epochs: Vec<_> = opened.keys.iter().filter(|k| k.tag == tag).map(|k| k.epoch).collect();
    assert_eq!(epochs, [1, 2], "current and next");
    let manifest = |epoch| {
        opened
            .manifests
            .iter()
            .find(|m| m.tag == tag && m.epoch == epoch)
            .unwrap()
    };
    assert_eq!(
        manifest(1).retires,
        later(overlap + LEASE),
        "the previous one admits for one lease more"
    );
    assert_eq!(
        (manifest(2).activates, manifest(2).kind),
        (later(overlap), EpochKind::Scheduled)
    );
    assert!(manifest(2).retires > manifest(1).retires);

    // Once the next one is current, the previous is given to nobody, but still named until it has retired.
    let after = later(overlap);
    site.issue("web-2", after);
    let opened = site.open(&name("web-2"), after);
    let epochs: Vec<_> = opened.keys.iter().filter(|k| k.tag == tag).map(|k| k.epoch).collect();
    assert_eq!(epochs, [2]);
    assert_eq!(opened.manifests.iter().filter(|m| m.tag == tag).count(), 2);
    let retired = later(overlap + LEASE);
    site.issue("web-2", retired);
    assert_eq!(
        site.open(&name("web-2"), retired)
            .manifests
            .iter()
            .filter(|m| m.tag == tag)
            .count(),
        1
    );
}

#[test]
fn a_removal_rolls_to_a_key_that_nobody_was_given() {
    let mut site = Site::enrolled();
    // The leaver knows the current key and the next one.
    site.roll("web", Roll::Scheduled { activates_in: LEASE }, NOW).unwrap();
    site.issue("web-1", NOW);
    let leaver = site.open(&name("web-1"), NOW);
    let when = later(Duration::from_secs(30));
    let held = site.enclave.revoke(&name("web-1"), when).unwrap();
    assert_eq!(held, [name("web"), name("web-app")]);
    for community in &held {
        let rolled = site.roll(community.as_str(), Roll::Removal, when).unwrap();
        assert!(rolled.changed);
        assert_eq!(rolled.activates, when);
    }
    site.issue("web-2", when);
    let other = site.open(&name("web-2"), when);
    for key in &other.keys {
        let known = leaver.keys.iter().any(|k| k.key.expose() == key.key.expose());
        assert!(!known, "epoch {} was handed out before", key.epoch);
    }
    for manifest in &other.manifests {
        if leaver
            .keys
            .iter()
            .any(|k| (k.tag, k.epoch) == (manifest.tag, manifest.epoch))
        {
            assert!(
                manifest.retires.0 <= when.0 + 10,
                "what the leaver knows admits for 10 seconds"
            );
        } else {
            assert_eq!((manifest.activates, manifest.kind), (when, EpochKind::Removal));
        }
    }
    let list = other.revocations.unwrap();
    assert!(
        list.entries
            .iter()
            .any(|e| e.static_key == *site.keys["web-1"].static_key().public())
    );
    assert!(
        other
            .directory
            .iter()
            .all(|e| e.name.as_str() != "web-1" || e.statements.is_empty())
    );
    assert_eq!(
        site.enclave
            .issue(&name("web-1"), when, &mut SeededEntropy::from_number(3)),
        Err(IssueError::NotEnrolled(name("web-1")))
    );
    // A second removal before anybody got the new key needs no other.
    let app = site.roll("web-app", Roll::Removal, when).unwrap();
    assert!(app.changed, "web-2 was given the key of web-app");
    let again = site.roll("web-app", Roll::Removal, when).unwrap();
    assert!(!again.changed);
    assert_eq!(again.epoch, app.epoch);
}

#[test]
fn epochs_that_admit_are_few() {
    let mut site = Site::enrolled();
    let now = Roll::Scheduled {
        activates_in: Duration::ZERO,
    };
    for epoch in 2..=4 {
        assert_eq!(site.roll("web", now, NOW).unwrap().epoch, epoch);
    }
    let error = site.roll("web", now, NOW).unwrap_err();
    assert_eq!(
        error,
        IssueError::TooManyEpochs {
            community: name("web"),
            until: later(LEASE)
        }
    );
    assert_eq!(site.roll("web", now, later(LEASE)).unwrap().epoch, 5);
    // Removals are never refused, and a member of 64 such communities still gets a bundle that is read.
    for epoch in 6..=20 {
        site.issue("web-1", later(LEASE));
        assert_eq!(site.roll("web", Roll::Removal, later(LEASE)).unwrap().epoch, epoch);
        assert!(site.enclave.manifests(&name("web")).count() <= 4);
    }
    site.issue("web-1", later(LEASE));
    let opened = site.open(&name("web-1"), later(LEASE));
    let tag = site.enclave.manifests(&name("web")).last().unwrap().tag;
    assert_eq!(
        opened
            .keys
            .iter()
            .filter(|k| k.tag == tag)
            .map(|k| k.epoch)
            .collect::<Vec<_>>(),
        [20]
    );
}

#[test]
fn a_member_of_the_most_communities_gets_a_bundle() {
    let mut text = "version = 1\n[enclave]\nname = \"wide\"\npools = [\"10.0.0.0/8\"]\n".to_owned();
    let names: Vec<String> = (0..64).map(|n| format!("c{n}")).collect();
    for name in &names {
        text.push_str(&format!("[community.{name}]\n"));
    }
    text.push_str(&format!("[template.t]\ncommunities = {names:?}\n"));
    for member in ["a", "b"] {
        text.push_str(&format!("[member.{member}]\ntemplate = \"t\"\n"));
    }
    let mut site = Site::of(&text);
    for community in &names {
        site.roll(community, Roll::Scheduled { activates_in: LEASE }, NOW)
            .unwrap();
    }
    site.issue("a", NOW);
    let opened = site.open_now("a");
    assert_eq!(
        (opened.keys.len(), opened.statements.len(), opened.manifests.len()),
        (128, 64, 128)
    );
    assert_eq!((opened.directory.len(), opened.directory[0].statements.len()), (1, 64));
}

#[test]
fn the_members_of_a_large_community_are_asked_for_and_not_listed() {
    let mut text = "version = 1\n[enclave]\nname = \"large\"\npools = [\"10.0.0.0/8\"]\n".to_owned();
    text.push_str("[community.big]\n[community.few]\n[template.t]\ncommunities = [\"big\"]\n");
    for n in 0..=coterie_control::bundle::MAX_ENTRIES + 1 {
        let also = if n < 3 { "communities = [\"few\"]\n" } else { "" };
        text.push_str(&format!("[member.m{n}]\ntemplate = \"t\"\n{also}"));
    }
    let mut entropy = SeededEntropy::from_number(1);
    let mut enclave = Enclave::init(&text, NOW, &mut entropy).unwrap();
    let keys = Keys::generate(name("m0"), &mut entropy);
    let bundle = enclave
        .enroll(&Request::new(&keys).unwrap(), NOW, &mut entropy)
        .unwrap();
    let opened = Bundle::parse(bundle.as_bytes())
        .unwrap()
        .open(&keys, None, NOW, 0)
        .unwrap();
    assert_eq!(
        opened.directory.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
        ["m1", "m2"]
    );
    let big = opened.manifests.iter().find(|m| m.name.as_str() == "big").unwrap();
    assert_eq!(big.holders, 1002);
}

#[test]
fn a_changed_file_revokes_who_is_gone_and_rolls_what_was_held() {
    let mut site = Site::enrolled();
    let mut entropy = SeededEntropy::from_number(11);
    let text = bundle_site::example();
    let unchanged = site.enclave.update(&text, NOW, &mut entropy).unwrap();
    assert_eq!(unchanged, coterie_control::issue::Changes::default());

    let holders = |site: &Site, community: &str| site.enclave.manifests(&name(community)).last().unwrap().holders;
    assert_eq!(holders(&site, "app-db"), 5);
    let smaller = bundle_site::without_section(&text, "[member.app-3]");
    let changes = site.enclave.update(&smaller, NOW, &mut entropy).unwrap();
    assert_eq!(changes.revoked, [name("app-3")].into());
    assert_eq!(changes.rolled, [name("admin"), name("app-db"), name("web-app")].into());
    assert_eq!(holders(&site, "app-db"), 4);
    assert_eq!(site.enclave.revocations().unwrap().entries.len(), 1);

    let larger = format!("{text}\n[community.audit]\n[member.web-9]\ntemplate = \"web\"\ncommunities = [\"audit\"]\n");
    let changes = site.enclave.update(&larger, NOW, &mut entropy).unwrap();
    assert_eq!(changes.added_communities, [name("audit")].into());
    assert_eq!(changes.added_members, [name("app-3"), name("web-9")].into());
    assert!(changes.rolled.is_empty());
    let other = text.replace("name = \"shop\"", "name = \"mall\"");
    assert_eq!(
        site.enclave.update(&other, NOW, &mut entropy),
        Err(IssueError::OtherEnclave {
            expected: name("shop"),
            found: name("mall")
        })
    );
    assert!(matches!(
        site.enclave.update("nonsense", NOW, &mut entropy),
        Err(IssueError::File(_))
    ));
}

#[test]
fn a_directory_comes_back_and_damage_is_named() {
    let mut site = Site::enrolled();
    site.roll("web", Roll::Scheduled { activates_in: LEASE }, NOW).unwrap();
    site.enclave.revoke(&name("app-3"), NOW).unwrap();
    let files = bundle_site::stored(&site.enclave);
    assert_eq!(files.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from(WRITTEN));
    let mut back = Enclave::from_files(|path| files.get(path).cloned()).unwrap();
    assert_eq!(bundle_site::stored(&back), files);
    // What it issues next is what it would have issued, byte for byte.
    let issue = |enclave: &mut Enclave| {
        enclave
            .issue(&name("web-1"), NOW, &mut SeededEntropy::from_number(1))
            .unwrap()
    };
    assert_eq!(issue(&mut back), issue(&mut site.enclave));

    for path in WRITTEN {
        let missing = Enclave::from_files(|wanted| files.get(wanted).filter(|_| wanted != path).cloned());
        let damaged = Enclave::from_files(|wanted| {
            let mut bytes = files.get(wanted).cloned()?;
            if wanted == path {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Some(bytes)
        });
        // The root's certificate is written for others and never read.
        if path == "root.pem" {
            assert!(missing.is_ok() && damaged.is_ok());
            continue;
        }
        assert_eq!(missing.unwrap_err(), IssueError::Missing { path });
        // The enclave file is the administrator's own text; a changed one is another policy, not damage.
        if path != "enclave.toml" {
            let error = damaged.unwrap_err().to_string();
            assert!(error.starts_with(path), "{path}: {error}");
        }
    }
}

#[test]
fn secrets_stand_in_secret_files_only() {
    let site = Site::enrolled();
    let secrets: Vec<_> = site.open_now("app-1").keys.iter().map(|k| *k.key.expose()).collect();
    assert!(!secrets.is_empty());
    for file in site.enclave.to_files() {
        let name = file.path;
        assert_eq!(file.secret, name.ends_with(".key"), "{name}");
        if !file.secret {
            let text = String::from_utf8(file.bytes.to_vec()).unwrap();
            assert!(!text.contains("KEY-----"), "{name}");
            for secret in &secrets {
                assert!(!text.contains(&bundle_site::base64(secret)), "{name}");
            }
        }
    }
}

#[test]
fn a_clock_that_runs_backwards_is_refused() {
    let mut site = Site::enrolled();
    let mut issue = |t| {
        site.enclave
            .issue(&name("web-1"), t, &mut SeededEntropy::from_number(1))
            .map(|_| ())
    };
    assert_eq!(issue(UnixTime(NOW.0 - 599)), Ok(()));
    assert_eq!(
        issue(UnixTime(NOW.0 - 86_400)),
        Err(IssueError::ClockBehind {
            now: UnixTime(NOW.0 - 86_400),
            latest: NOW
        })
    );
    assert!(matches!(
        issue(UnixTime(NOW.0 + 400_000_000)),
        Err(IssueError::AuthorityEnded(_))
    ));
}

#[test]
fn rolls_are_due_by_the_enclave_file() {
    let site = Site::enrolled();
    assert!(site.enclave.due(NOW).is_empty());
    assert_eq!(
        site.enclave.due(later(Duration::from_secs(12 * 3600))),
        [name("app-db")]
    );
    assert_eq!(site.enclave.due(later(Duration::from_secs(24 * 3600))).len(), 5);
}
