//! Machines that were made anew take names over, and leave room on the list of the refused.

use std::time::Duration;

use coterie_control::issue::{Admission, Enclave, IssueError};
use coterie_crypto::SeededEntropy;
use coterie_model::{MemberId, Revocation, UnixTime};

use crate::site::{FILE, NOW, Site, name};

impl Site {
    /// A machine with new keys comes for a name, as by ticket or when its holder has left it.
    fn come(&mut self, member: &str, now: UnixTime) -> Result<Admission, IssueError> {
        self.base += 1;
        let (request, endpoint) = self.machine(member, 2);
        let id = MemberId::draw(&mut self.entropy);
        self.enclave
            .provision(&name("web"), vec![endpoint], &request, true, id, now)
    }

    fn refused(&self) -> Vec<Revocation> {
        let list = self.enclave.revocations();
        list.map_or_else(Vec::new, |list| list.entries.clone())
    }

    fn files(&self) -> Vec<Vec<u8>> {
        let files = self.enclave.to_files();
        files.into_iter().map(|file| file.bytes.to_vec()).collect()
    }
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
