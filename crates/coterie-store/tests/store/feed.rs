//! The feed of changes: several under one revision, and whom they concern.

use std::collections::BTreeSet;

use coterie_model::{EnclaveId, Name, Revision};
use coterie_store::{Change, Feed, NewChange, Read, StoreError};

use crate::site::{NOW, Site, add_change, name, tenant_with_enclave};

fn names(text: &str) -> BTreeSet<Name> {
    text.split_ascii_whitespace().map(name).collect()
}

async fn changes(r: &mut Read, enclave: EnclaveId, after: Revision, limit: u32) -> Vec<Change> {
    match r.changes_since(enclave, after, limit).await.unwrap() {
        Feed::Changes { changes, .. } => changes,
        Feed::SnapshotNeeded { newest } => panic!("snapshot needed, newest {newest}"),
    }
}

#[tokio::test]
async fn what_changes_at_once_has_one_revision_and_says_whom_it_concerns() {
    let site = Site::new().await;
    let id = site.enclave;
    let (web, both, nobody) = (names("web"), names("db web"), names(""));
    let change = |kind, subject, concerns| NewChange {
        kind,
        subject,
        concerns,
    };
    let at_once = [
        change("member", "web-1", &web),
        change("community", "web", &nobody),
        change("member", "web-1", &both),
        change("member", "web-2", &web),
    ];
    let mut w = site.store.write().await.unwrap();
    assert_eq!(w.add_changes(id, &at_once, NOW).await.unwrap(), 1);
    assert_eq!(w.add_changes(id, &[], NOW).await.unwrap(), 1, "nothing changed");
    assert_eq!(w.add_changes(id, &at_once[..1], NOW).await.unwrap(), 2);
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    let seen = changes(&mut r, id, 0, 100).await;
    let seen: Vec<_> = seen
        .iter()
        .map(|c| (c.revision, c.kind.as_str(), c.subject.as_str(), c.concerns.clone()))
        .collect();
    let expected = [
        (1, "community", "web", nobody),
        (1, "member", "web-1", both),
        (1, "member", "web-2", web.clone()),
        (2, "member", "web-1", web),
    ];
    assert_eq!(seen, expected);
    let mut w = site.store.write().await.unwrap();
    let error = w.add_changes(EnclaveId([9; 16]), &[], NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
}

#[tokio::test]
async fn no_limit_cuts_a_revision_in_two() {
    let site = Site::new().await;
    let id = site.enclave;
    let web = names("web");
    let sizes = [1_usize, 4, 2, 1, 3];
    let mut w = site.store.write().await.unwrap();
    for size in sizes {
        let subjects: Vec<String> = (0..size).map(|n| format!("m-{n}")).collect();
        let at_once: Vec<NewChange<'_>> = subjects
            .iter()
            .map(|subject| NewChange {
                kind: "member",
                subject,
                concerns: &web,
            })
            .collect();
        w.add_changes(id, &at_once, NOW).await.unwrap();
    }
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    let all = changes(&mut r, id, 0, 100).await;
    assert_eq!(all.len(), 11);
    for limit in 0..=12 {
        let mut seen: Vec<Change> = Vec::new();
        loop {
            let after = seen.last().map_or(0, |change| change.revision);
            let page = changes(&mut r, id, after, limit).await;
            let Some(last) = page.last() else { break };
            // No more revisions than it takes.
            let before_last = page.iter().filter(|c| c.revision < last.revision).count();
            assert!(before_last < usize::try_from(limit.max(1)).unwrap(), "limit {limit}");
            seen.extend(page);
        }
        assert_eq!(seen, all, "limit {limit}");
    }
}

#[tokio::test]
async fn names_that_are_none_are_damage() {
    let site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    add_change(&mut w, site.enclave, "web-1").await.unwrap();
    w.commit().await.unwrap();
    crate::site::edit(&mut site.sql().await, "UPDATE changes SET concerns = 'web DB'").await;
    let mut r = site.store.read().await.unwrap();
    let error = r.changes_since(site.enclave, 0, 10).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn the_server_finds_every_enclave_whosever_it_is() {
    let mut site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    let (tenant, other) = tenant_with_enclave(&mut w, "bravo", "prod", &mut site.entropy).await;
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    let mut expected = [(site.enclave, site.tenant), (other, tenant)];
    expected.sort();
    let all = r.all_enclaves().await.unwrap();
    assert_eq!(all.iter().map(|e| (e.id, e.tenant)).collect::<Vec<_>>(), expected);
    for (id, tenant) in expected {
        let own = r.enclave(tenant, id).await.unwrap();
        assert!(own.is_some());
        assert_eq!(r.enclave_of_any_tenant(id).await.unwrap(), own);
    }
    assert_eq!(r.enclave_of_any_tenant(EnclaveId([9; 16])).await.unwrap(), None);
}
