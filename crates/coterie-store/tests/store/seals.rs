//! Secrets at rest.

use std::sync::Arc;

use coterie_crypto::Secret;
use coterie_store::{FindingKind, Store, StoreError, Value};

use crate::site::{NOW, Site, edit, name, new_token, root_key};

const SECRET: &[u8] = b"a text that stands nowhere in clear";

fn files(site: &Site) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(site.dir.path()).unwrap() {
        bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
    }
    bytes
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[tokio::test]
async fn no_secret_is_in_any_file() {
    let mut site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    w.put_record(site.enclave, "keys", "web", Value::Secret(SECRET), &mut site.entropy)
        .await
        .unwrap();
    w.put_record(
        site.enclave,
        "file",
        "",
        Value::Clear(b"a text that may"),
        &mut site.entropy,
    )
    .await
    .unwrap();
    let template = name("web");
    let new = new_token(&template, 1);
    let (_, token) = w
        .create_token(site.enclave, &new, NOW, &mut site.entropy)
        .await
        .unwrap();
    let ticket = Secret::new([0xc3; 32]);
    w.put_ticket(site.enclave, crate::site::member(1), None, &ticket, NOW)
        .await
        .unwrap();
    w.commit().await.unwrap();
    let site = site.reopened().await;
    let bytes = files(&site);
    assert!(holds(&bytes, b"a text that may"));
    for secret in [SECRET, token.expose(), ticket.expose(), root_key().expose()] {
        assert!(!holds(&bytes, secret));
    }
}

#[tokio::test]
async fn a_wrong_root_key_is_said_to_be_one() {
    let site = Site::new().await;
    let path = site.path();
    let wrong = || Secret::new([1; 32]);
    let error = Store::open_read_only(&path, wrong()).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongRootKey { .. }), "{error}");
    let Site {
        store,
        mut entropy,
        dir: _dir,
        ..
    } = site;
    Arc::into_inner(store).unwrap().close().await.unwrap();
    let error = Store::open(&path, wrong(), NOW, &mut entropy).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongRootKey { .. }), "{error}");
    Store::open(&path, root_key(), NOW, &mut entropy).await.unwrap();
}

#[tokio::test]
async fn a_new_root_key_takes_over_with_the_commit() {
    let mut site = Site::new().await;
    let new = || Secret::new([2; 32]);
    let mut before = site.store.read().await.unwrap();

    let mut w = site.store.write().await.unwrap();
    w.rotate_root_key(new(), &mut site.entropy).await.unwrap();
    assert_eq!(w.read().records(site.enclave).await.unwrap().len(), 1);
    drop(w);
    let mut w = site.store.write().await.unwrap();
    let savepoint = w.savepoint().await.unwrap();
    w.rotate_root_key(new(), &mut site.entropy).await.unwrap();
    w.undo(savepoint).await.unwrap();
    assert_eq!(w.read().records(site.enclave).await.unwrap().len(), 1);
    w.commit().await.unwrap();
    Store::open_read_only(&site.path(), root_key()).await.unwrap();

    let mut w = site.store.write().await.unwrap();
    w.rotate_root_key(new(), &mut site.entropy).await.unwrap();
    w.put_record(site.enclave, "keys", "web", Value::Secret(SECRET), &mut site.entropy)
        .await
        .unwrap();
    let mut during = site.store.read().await.unwrap();
    w.commit().await.unwrap();
    for read in [&mut before, &mut during] {
        assert_eq!(read.records(site.enclave).await.unwrap().len(), 1);
    }
    let records = site.store.read().await.unwrap().records(site.enclave).await.unwrap();
    assert_eq!(records[0].value[..], *SECRET);
    assert!(site.store.check().await.unwrap().findings.is_empty());
    let error = Store::open_read_only(&site.path(), root_key()).await.unwrap_err();
    assert!(matches!(error, StoreError::WrongRootKey { .. }), "{error}");
    Store::open_read_only(&site.path(), new()).await.unwrap();
}

#[tokio::test]
async fn reads_go_on_while_root_keys_come_and_go() {
    let mut site = Site::new().await;
    let (store, enclave) = (Arc::clone(&site.store), site.enclave);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = {
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let mut reads = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.read().await.unwrap().records(enclave).await.unwrap();
                reads += 1;
            }
            reads
        })
    };
    for n in 0..50 {
        let mut w = site.store.write().await.unwrap();
        w.rotate_root_key(Secret::new([n; 32]), &mut site.entropy)
            .await
            .unwrap();
        w.commit().await.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
}

#[tokio::test]
async fn a_value_that_was_moved_or_edited_is_found() {
    let mut site = Site::new().await;
    let token = site.token(1).await;
    let mut w = site.store.write().await.unwrap();
    let other = w.create_tenant(&name("bravo"), NOW, &mut site.entropy).await.unwrap();
    w.put_record(site.enclave, "keys", "web", Value::Secret(SECRET), &mut site.entropy)
        .await
        .unwrap();
    w.put_record(site.enclave, "keys", "app", Value::Secret(b"other"), &mut site.entropy)
        .await
        .unwrap();
    w.commit().await.unwrap();
    let mut conn = site.sql().await;
    let moved = "UPDATE records SET value = (SELECT value FROM records WHERE key = 'web') WHERE key = 'app'";
    edit(&mut conn, moved).await;
    edit(
        &mut conn,
        "UPDATE tokens SET sealed_secret = substr(sealed_secret, 1, 20)",
    )
    .await;
    edit(
        &mut conn,
        "UPDATE tenants SET sealed_key = zeroblob(60) WHERE name = 'bravo'",
    )
    .await;
    let report = site.store.check().await.unwrap();
    let whats: Vec<String> = report.findings.iter().map(|f| f.what.clone()).collect();
    assert!(
        report.findings.iter().all(|f| f.kind == FindingKind::Sealed),
        "{whats:?}"
    );
    assert_eq!(whats.len(), 3, "{whats:?}");
    assert!(whats.iter().any(|what| what.contains("keys \"app\"")), "{whats:?}");
    assert!(whats.iter().any(|what| what.contains(&token.to_string())), "{whats:?}");
    assert!(whats.iter().any(|what| what.contains(&other.to_string())), "{whats:?}");
    let mut r = site.store.read().await.unwrap();
    let error = r.record(site.enclave, "keys", "app").await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}
