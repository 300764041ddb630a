//! The state as it is stored: whole, read back, refused where nobody makes it, and set back by a restore.

use std::time::Duration;

use coterie_control::{
    bundle::Opened,
    issue::{Admission, Enclave, IssueError, Part, Roll, TakenBack},
};

use coterie_crypto::SeededEntropy;

use crate::site::{FILE, NOW, Site, name};

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
fn whom_a_list_from_before_a_restore_names_is_refused_again() {
    let mut site = Site::new();
    site.enclave.serve(NOW).unwrap();
    for (template, member, number) in [
        ("web", "web-6", 6),
        ("web", "web-7", 7),
        ("web", "web-8", 8),
        ("db", "db-1", 1),
    ] {
        site.apply(template, member, number).unwrap();
        site.open(member, number);
    }
    let list = |site: &Site| site.enclave.revocations().unwrap().bytes().to_vec();
    site.enclave.isolate(&name("web-8"), NOW).unwrap();
    let known = list(&site);
    site.store();
    let backup = site.stored.clone();
    // After the backup: one goes for good, one that came since too, and one is isolated.
    site.enclave.revoke(&name("web-7"), NOW).unwrap();
    site.apply("web", "web-9", 9).unwrap();
    site.open("web-9", 9);
    site.enclave.revoke(&name("web-9"), NOW).unwrap();
    site.enclave.isolate(&name("db-1"), NOW).unwrap();
    let lost = list(&site);
    let keys: Vec<_> = site.enclave.revocations().unwrap().entries.clone();
    assert!(
        site.enclave.take_back(&lost, NOW).unwrap() == TakenBack::default(),
        "it is known"
    );

    let records = backup
        .into_iter()
        .map(|((kind, key), value)| (Part::of(&kind, &key).unwrap(), value.into()));
    site.enclave = Enclave::from_records(records).unwrap();
    let later = NOW.plus(Duration::from_secs(3));
    site.enclave.recover(later, &mut site.entropy).unwrap();
    assert!(
        !site.enclave.is_isolated(&name("web-7")),
        "that it was revoked is not known"
    );
    // What is stored knows what it does not know.
    site.store();
    site.enclave = site.reloaded();
    assert!(
        site.enclave.take_back(&known, later).unwrap() == TakenBack::default(),
        "of before the backup"
    );
    let mut forged = lost.clone();
    forged[40] ^= 1;
    assert_eq!(site.enclave.take_back(&forged, later), Err(IssueError::ForeignList));
    let mut other = Site::new();
    other.enclave = Enclave::init(FILE, NOW, &mut SeededEntropy::from_number(2)).unwrap();
    other.enclave.serve(NOW).unwrap();
    other.apply("web", "web-7", 7).unwrap();
    other.enclave.isolate(&name("web-7"), NOW).unwrap();
    assert_eq!(
        site.enclave.take_back(&list(&other), later),
        Err(IssueError::ForeignList)
    );

    let taken = site.enclave.take_back(&lost, later).unwrap();
    assert_eq!(taken.isolated, [name("db-1"), name("web-7")]);
    assert_eq!(taken.others, 1, "web-9 is no member here");
    let refused = site.enclave.revocations().unwrap().entries.clone();
    assert!(
        keys.iter()
            .all(|old| refused.iter().any(|new| new.static_key == old.static_key))
    );
    assert!(!site.enclave.is_isolated(&name("web-6")));
    let before = list(&site);
    assert_eq!(
        site.enclave.take_back(&lost, later).unwrap(),
        TakenBack::default(),
        "once is enough"
    );
    assert_eq!(list(&site), before);
    // Whom a person releases then stays free, whoever shows the list again.
    site.enclave.release(&name("db-1"), later).unwrap();
    assert_eq!(site.enclave.take_back(&lost, later).unwrap(), TakenBack::default());
    assert!(!site.enclave.is_isolated(&name("db-1")));
}
