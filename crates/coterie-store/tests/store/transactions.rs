//! What is kept, what is not, and who sees what.

use coterie_store::{AuditEntry, AuditVerdict, Scope, Store, StoreError, Value};

use crate::site::{NOW, Site, add_change, member, name, root_key, static_key, tenant_with_enclave};

#[tokio::test]
async fn what_is_dropped_is_not_kept_and_the_next_one_works() {
    let mut site = Site::new().await;
    for _ in 0..3 {
        let mut w = site.store.write().await.unwrap();
        w.create_tenant(&name("bravo"), NOW, &mut site.entropy).await.unwrap();
        drop(w);
    }
    let mut w = site.store.write().await.unwrap();
    assert_eq!(w.read().tenant_by_name(&name("bravo")).await.unwrap(), None);
    w.create_tenant(&name("bravo"), NOW, &mut site.entropy).await.unwrap();
    w.commit().await.unwrap();
    let site = site.reopened().await;
    assert_eq!(site.store.read().await.unwrap().tenants().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_read_sees_one_state_from_beginning_to_end() {
    let mut site = Site::new().await;
    let mut before = site.store.read().await.unwrap();
    let mut w = site.store.write().await.unwrap();
    w.create_tenant(&name("bravo"), NOW, &mut site.entropy).await.unwrap();
    let mut during = site.store.read().await.unwrap();
    w.commit().await.unwrap();
    let mut after = site.store.read().await.unwrap();
    let mut seen = Vec::new();
    for read in [&mut before, &mut during, &mut after] {
        seen.push(read.tenants().await.unwrap().len());
    }
    assert_eq!(seen, [1, 1, 2]);
}

#[tokio::test]
async fn a_step_that_is_undone_takes_no_other_with_it() {
    let mut site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    for n in 0..6 {
        let savepoint = w.savepoint().await.unwrap();
        add_change(&mut w, site.enclave, &format!("m-{n}")).await.unwrap();
        // Every second one wants a key that is taken by then.
        match w.claim_static_key(site.enclave, member(n), &static_key(n / 2)).await {
            Ok(()) => w.keep(savepoint).await.unwrap(),
            Err(StoreError::StaticKeyTaken) => w.undo(savepoint).await.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    let outer = w.savepoint().await.unwrap();
    w.create_tenant(&name("bravo"), NOW, &mut site.entropy).await.unwrap();
    let inner = w.savepoint().await.unwrap();
    w.keep(inner).await.unwrap();
    w.undo(outer).await.unwrap();
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    assert_eq!(r.enclave(site.tenant, site.enclave).await.unwrap().unwrap().revision, 3);
    for n in 0..6 {
        let key = r.static_key(site.enclave, member(n)).await.unwrap();
        assert_eq!(key.is_some(), n % 2 == 0, "{n}");
    }
    assert_eq!(r.tenants().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_transaction_knows_of_itself_goes_with_what_is_undone() {
    let mut site = Site::new().await;
    let null = serde_json::Value::Null;
    let entry = |action| AuditEntry {
        scope: Scope::Tenant(site.tenant),
        actor: "ada",
        action,
        object: "prod",
        detail: &null,
    };
    let mut w = site.store.write().await.unwrap();
    assert_eq!(w.audit(&entry("first"), NOW).await.unwrap(), 1);
    let outer = w.savepoint().await.unwrap();
    assert_eq!(w.audit(&entry("undone"), NOW).await.unwrap(), 2);
    let (tenant, other) = tenant_with_enclave(&mut w, "bravo", "prod", &mut site.entropy).await;
    let inner = w.savepoint().await.unwrap();
    let secret = Value::Secret(b"k");
    w.put_record(other, "keys", "web", secret, &mut site.entropy)
        .await
        .unwrap();
    w.remove_enclave(tenant, other).await.unwrap();
    let error = w
        .put_record(other, "keys", "web", secret, &mut site.entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
    let gone = w.read().live_tokens(other, NOW).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { what: "enclave" }), "{gone}");
    w.undo(outer).await.unwrap();
    // The one inside went with the one around it, whatever is marked since.
    let next = w.savepoint().await.unwrap();
    let nested = w.savepoint().await.unwrap();
    let error = w.keep(inner).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "savepoint" }), "{error}");
    w.keep(nested).await.unwrap();
    let error = w.read().live_tokens(other, NOW).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { what: "enclave" }), "{error}");
    assert_eq!(w.audit(&entry("second"), NOW).await.unwrap(), 2);
    w.keep(next).await.unwrap();
    assert_eq!(w.audit(&entry("third"), NOW).await.unwrap(), 3);
    w.put_record(site.enclave, "keys", "web", secret, &mut site.entropy)
        .await
        .unwrap();
    w.commit().await.unwrap();
    let mut r = site.store.read().await.unwrap();
    assert_eq!(r.verify_audit().await.unwrap(), AuditVerdict::Whole { rows: 3 });
    let log = r.audit(Scope::Tenant(site.tenant), 0, 10).await.unwrap();
    let actions: Vec<_> = log.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["first", "second", "third"]);
    drop(r);
    assert!(site.store.check().await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn who_opened_for_reading_does_not_write_and_sees_what_others_wrote() {
    let mut site = Site::new().await;
    let reader = Store::open_read_only(&site.path(), root_key()).await.unwrap();
    let error = reader.write().await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    let mut w = site.store.write().await.unwrap();
    w.put_record(site.enclave, "keys", "web", Value::Secret(b"k"), &mut site.entropy)
        .await
        .unwrap();
    w.commit().await.unwrap();
    let record = reader
        .read()
        .await
        .unwrap()
        .record(site.enclave, "keys", "web")
        .await
        .unwrap();
    assert_eq!(record.unwrap().value[..], b"k"[..]);
    assert!(reader.check().await.unwrap().findings.is_empty());
    reader.close().await.unwrap();
}

#[tokio::test]
async fn numbers_that_no_table_holds_are_refused() {
    let site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    let never = coterie_model::UnixTime(u64::MAX);
    let error = w.ask_task("a", "b", never).await.unwrap_err();
    assert!(matches!(error, StoreError::OutOfRange { .. }), "{error}");
    w.ask_task("a", "b", NOW).await.unwrap();
    w.commit().await.unwrap();
}

/// The server runs on several threads, so what it awaits must be able to move between them.
#[tokio::test]
async fn what_is_awaited_can_move_between_threads() {
    fn moves<T: Send>(value: T) -> T {
        value
    }
    let mut site = Site::new().await;
    let mut w = moves(site.store.write()).await.unwrap();
    moves(w.create_tenant(&name("bravo"), NOW, &mut site.entropy))
        .await
        .unwrap();
    moves(w.rotate_root_key(root_key(), &mut site.entropy)).await.unwrap();
    moves(w.commit()).await.unwrap();
    moves(site.store.check()).await.unwrap();
    moves(site.store.backup(&site.dir.path().join("backup"), root_key()))
        .await
        .unwrap();
}
