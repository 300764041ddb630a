//! New bundles of the same members: by renewal, under a new root, by an application that is shown again.

use std::{collections::BTreeSet, time::Duration};

use coterie_control::{
    bundle::{Bundle, BundleError, Opened, Request, root_hash},
    issue::{Admission, IssueError, Part},
};
use coterie_model::{MemberId, Name};

use crate::site::{NOW, Site, name};

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
    // Nothing more is sealed to a key that a bundle was sealed to: neither to this one nor to that of an application.
    let of_other_application = Request::new(&site.keys[&8]).unwrap();
    site.enclave.take_records();
    for used in [&request, &of_other_application] {
        let renewed = site.enclave.renew(used, late, &mut site.entropy);
        assert_eq!(renewed, Err(IssueError::SealingKeyUsed(used.name().clone())));
        // Nor after a restart.
        let renewed = site.reloaded().renew(used, late, &mut site.entropy);
        assert_eq!(renewed, Err(IssueError::SealingKeyUsed(used.name().clone())));
    }
    let changed = site.enclave.take_records();
    assert!(changed.iter().all(|r| r.part == Part::Enclave), "the clock alone");
    let keys = site.keys[&7].for_delivery(&mut site.entropy);
    let request = Request::new(&keys).unwrap();
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
fn an_application_that_is_shown_again_changes_nothing_for_others() {
    let later = NOW.plus(Duration::from_secs(1000));
    let again = |site: &mut Site| {
        site.apply("web", "web-7", 7).unwrap();
        let first = site.open("web-7", 7);
        site.enclave.take_records();
        let request = Request::new(&site.keys[&7]).unwrap();
        let member = MemberId::draw(&mut site.entropy);
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
