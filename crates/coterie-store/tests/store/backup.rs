//! Backup, restore, check.

use std::sync::Arc;

use coterie_crypto::Secret;
use coterie_model::UnixTime;
use coterie_store::{Feed, FindingKind, Scope, Store, StoreError, Value};

use crate::site::{NOW, Site, add_change, edit, member, name, root_key};

const LATER: UnixTime = UnixTime(NOW.0 + 1_000);

async fn with_changes(n: u64) -> Site {
    let site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    for at in 0..n {
        add_change(&mut w, site.enclave, &at.to_string()).await.unwrap();
    }
    w.commit().await.unwrap();
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_one_state_while_others_write() {
    let site = Arc::new(with_changes(0).await);
    let writer = {
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            for n in 1..=200_u64 {
                // Two things that are always equal.
                let mut w = site.store.write().await.unwrap();
                add_change(&mut w, site.enclave, "x").await.unwrap();
                let mut entropy = coterie_crypto::SeededEntropy::from_number(n);
                let value = n.to_string();
                w.put_record(site.enclave, "count", "", Value::Secret(value.as_bytes()), &mut entropy)
                    .await
                    .unwrap();
                w.commit().await.unwrap();
            }
        })
    };
    for n in 0..5 {
        let to = site.dir.path().join(format!("backup-{n}"));
        site.store.backup(&to, root_key()).await.unwrap();
        let copy = Store::open_read_only(&to, root_key()).await.unwrap();
        let mut r = copy.read().await.unwrap();
        let revision = r.enclave(site.tenant, site.enclave).await.unwrap().unwrap().revision;
        let count = r.record(site.enclave, "count", "").await.unwrap();
        let count = count.map_or_else(|| "0".to_owned(), |c| String::from_utf8(c.value.to_vec()).unwrap());
        assert_eq!(revision.to_string(), count);
    }
    writer.await.unwrap();
    let mut names: Vec<_> = std::fs::read_dir(site.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with("backup"))
        .collect();
    names.sort();
    assert_eq!(names, ["backup-0", "backup-1", "backup-2", "backup-3", "backup-4"]);
}

#[tokio::test]
async fn a_backup_overwrites_nothing_and_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = with_changes(1).await;
    let to = site.dir.path().join("backup");
    let report = site.store.backup(&to, root_key()).await.unwrap();
    assert_eq!((report.tenants, report.opened, report.audit_rows), (1, 2, 0));
    assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    let error = site.store.backup(&to, root_key()).await.unwrap_err();
    assert!(matches!(error, StoreError::FileExists { .. }), "{error}");
    let other = site.dir.path().join("other");
    let error = site.store.backup(&other, Secret::new([1; 32])).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongRootKey { .. }), "{error}");
    edit(&mut site.sql().await, "UPDATE tenants SET sealed_key = zeroblob(60)").await;
    let error = site.store.backup(&other, root_key()).await.unwrap_err();
    assert!(matches!(error, StoreError::BadBackup { .. }), "{error}");
    assert!(!other.exists() && !site.dir.path().join("other.partial").exists());
}

#[tokio::test]
async fn a_restored_database_is_told_from_the_one_before() {
    let mut site = with_changes(3).await;
    let (backup, new) = (site.dir.path().join("backup"), site.dir.path().join("new"));
    site.store.backup(&backup, root_key()).await.unwrap();
    // What the backup does not know: five more changes, seen by whoever follows.
    let mut w = site.store.write().await.unwrap();
    for _ in 0..5 {
        add_change(&mut w, site.enclave, "lost").await.unwrap();
    }
    w.commit().await.unwrap();
    let before = site.store.read().await.unwrap().settings().await.unwrap();
    let mut seen = Vec::new();
    let twice = site.dir.path().join("twice");
    for (path, now) in [(&new, LATER), (&twice, LATER.plus(crate::site::HOUR))] {
        Store::restore(&backup, path, root_key(), now, &mut site.entropy)
            .await
            .unwrap();
        let store = Store::open(path, root_key(), now, &mut site.entropy).await.unwrap();
        let mut w = store.write().await.unwrap();
        let settings = w.read().settings().await.unwrap();
        assert_eq!((settings.server, settings.restored), (before.server, 1));
        assert_ne!(settings.timeline, before.timeline);
        let enclave = w.read().enclave(site.tenant, site.enclave).await.unwrap().unwrap();
        for revision in [0, 3, 8] {
            let feed = w.read().changes_since(site.enclave, revision, 100).await.unwrap();
            assert_eq!(
                feed,
                Feed::SnapshotNeeded {
                    newest: enclave.revision
                }
            );
        }
        let error = w.advance_enclave(site.tenant, site.enclave, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::Conflict { expected: 1, .. }), "{error}");
        // Numbers pass through JSON, where 2^53 is the last that is exact.
        assert!(enclave.revision > 8 && enclave.revision < 1 << 53);
        assert_eq!(
            add_change(&mut w, site.enclave, "x").await.unwrap(),
            enclave.revision + 1
        );
        w.commit().await.unwrap();
        let log = store.read().await.unwrap().audit(Scope::Operator, 0, 10).await.unwrap();
        assert_eq!(log.last().unwrap().action, "database.restore");
        assert!(store.check().await.unwrap().findings.is_empty());
        seen.push((settings.timeline, enclave.revision));
        store.close().await.unwrap();
    }
    assert_ne!(seen[0].0, seen[1].0);
    assert!(
        seen[0].1 + 1 < seen[1].1,
        "two restores of one backup count in ranges of their own"
    );
    let names: Vec<_> = std::fs::read_dir(site.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.contains("partial"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

#[tokio::test]
async fn a_restore_overwrites_nothing_and_takes_no_bad_backup() {
    let mut site = with_changes(1).await;
    let (backup, new) = (site.dir.path().join("backup"), site.dir.path().join("new"));
    site.store.backup(&backup, root_key()).await.unwrap();
    let over = Store::restore(&backup, &site.path(), root_key(), LATER, &mut site.entropy)
        .await
        .unwrap_err();
    assert!(matches!(over, StoreError::FileExists { .. }), "{over}");
    let alive = Store::restore(&site.path(), &new, root_key(), LATER, &mut site.entropy)
        .await
        .unwrap_err();
    assert!(matches!(alive, StoreError::BadBackup { .. }), "{alive}");
    let wrong = Store::restore(&backup, &new, Secret::new([1; 32]), LATER, &mut site.entropy)
        .await
        .unwrap_err();
    assert!(matches!(wrong, StoreError::WrongRootKey { .. }), "{wrong}");
    let mut bytes = std::fs::read(&backup).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xff);
    let damaged = site.dir.path().join("damaged");
    std::fs::write(&damaged, bytes).unwrap();
    Store::restore(&damaged, &new, root_key(), LATER, &mut site.entropy)
        .await
        .unwrap_err();
    let cut = site.dir.path().join("cut");
    std::fs::write(&cut, &std::fs::read(&backup).unwrap()[..middle]).unwrap();
    Store::restore(&cut, &new, root_key(), LATER, &mut site.entropy)
        .await
        .unwrap_err();
    assert!(!new.exists() && !site.dir.path().join("new.partial").exists());
    Store::restore(&backup, &new, root_key(), LATER, &mut site.entropy)
        .await
        .unwrap();
    assert!(new.exists());
}

#[tokio::test]
async fn a_check_says_what_is_wrong_and_what_to_do() {
    let mut site = with_changes(1).await;
    let token = site.token(2).await;
    let mut w = site.store.write().await.unwrap();
    w.use_token(token, member(1), &name("web-1"), "::1".parse().unwrap(), NOW)
        .await
        .unwrap();
    w.commit().await.unwrap();
    assert!(site.store.check().await.unwrap().findings.is_empty());
    let mut conn = site.sql().await;
    edit(
        &mut conn,
        "INSERT INTO token_uses SELECT enclave_id, zeroblob(16), token_id, name, time, source, ended FROM token_uses",
    )
    .await;
    edit(
        &mut conn,
        "INSERT INTO changes VALUES (zeroblob(16), 1, 'a', 'b', '', 0)",
    )
    .await;
    let findings = site.store.check().await.unwrap().findings;
    let kinds: Vec<FindingKind> = findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FindingKind::Reference, FindingKind::Token]);
    assert!(findings[1].to_string().contains(&token.to_string()) && findings[1].to_string().contains("revoke"));
    edit(
        &mut conn,
        "DELETE FROM changes WHERE enclave_id = zeroblob(16); DELETE FROM token_uses",
    )
    .await;
    edit(
        &mut conn,
        "PRAGMA ignore_check_constraints = ON; UPDATE tokens SET uses_made = 3",
    )
    .await;
    let findings = site.store.check().await.unwrap().findings;
    assert_eq!(
        findings.iter().map(|f| f.kind).collect::<Vec<_>>(),
        [FindingKind::Token]
    );
    assert!(
        findings[0].what.contains("2 uses allowed, 3 counted, 0 on record"),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_found() {
    let mut site = with_changes(1).await;
    let mut w = site.store.write().await.unwrap();
    for n in 0..200 {
        let key = format!("m-{n}");
        w.put_record(site.enclave, "member", &key, Value::Clear(&[7; 300]), &mut site.entropy)
            .await
            .unwrap();
    }
    w.create_tenant(&name("bravo"), NOW, &mut site.entropy).await.unwrap();
    w.commit().await.unwrap();
    let path = site.path();
    let Site { store, dir: _dir, .. } = site;
    Arc::into_inner(store).unwrap().close().await.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // One page that the b-tree of the records reaches.
    let at = bytes.windows(32).rposition(|w| w == [7; 32]).unwrap() / 4096 * 4096;
    bytes[at..at + 64].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let store = Store::open_read_only(&path, root_key()).await.unwrap();
    let findings = store.check().await.unwrap().findings;
    assert!(
        findings.iter().all(|f| f.kind == FindingKind::File) && !findings.is_empty(),
        "{findings:?}"
    );
}
