//! Names, addresses and keys of members that tokens make: one machine's at a time, and beside those of the file.

use std::{net::SocketAddr, time::Duration};

use coterie_control::issue::{Admission, IssueError, Part};
use coterie_model::Name;

use crate::site::{FILE, NOW, Site, name};

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
