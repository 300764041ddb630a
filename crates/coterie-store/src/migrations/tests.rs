use coterie_crypto::{Secret, SeededEntropy};
use coterie_model::Name;

use super::*;
use crate::{Store, sqlite::writer};

/// A step that only these tests know, so that there is always one beyond the first.
const SECOND: Migration = Migration {
    version: 2,
    name: "second",
    sql: "ALTER TABLE tenants ADD COLUMN note TEXT; CREATE INDEX tenants_by_note ON tenants (note);",
};
const NOW: UnixTime = UnixTime(1_000);

async fn schema(conn: &mut SqliteConnection) -> Vec<String> {
    let rows = sqlx::query("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name")
        .fetch_all(conn)
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn each_step_is_taken_once_however_often_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut conn = writer(&path).await.unwrap();
    let mut all = ALL.to_vec();
    all.push(SECOND);
    let mut last = Vec::new();
    for upto in 1..=all.len() {
        apply(&mut conn, &path, &all[..upto], NOW).await.unwrap();
        let once = schema(&mut conn).await;
        assert_ne!(once, last);
        apply(&mut conn, &path, &all[..upto], NOW).await.unwrap();
        assert_eq!(schema(&mut conn).await, once);
        assert_eq!(version(&mut conn, &path, &all).await.unwrap(), all[upto - 1].version);
        last = once;
    }
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut conn = writer(&path).await.unwrap();
    apply(&mut conn, &path, ALL, NOW).await.unwrap();
    let before = schema(&mut conn).await;
    let mut all = ALL.to_vec();
    all.push(Migration {
        sql: "CREATE TABLE half (a INTEGER) STRICT; INSERT INTO nowhere VALUES (1);",
        ..SECOND
    });
    apply(&mut conn, &path, &all, NOW).await.unwrap_err();
    assert_eq!(schema(&mut conn).await, before);
    all.pop();
    all.push(SECOND);
    apply(&mut conn, &path, &all, NOW).await.unwrap();
}

#[tokio::test]
async fn a_database_of_schema_1_is_opened_with_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut conn = writer(&path).await.unwrap();
    apply(&mut conn, &path, &ALL[..1], NOW).await.unwrap();
    drop(conn);
    let root = || Secret::new([7; 32]);
    let mut entropy = SeededEntropy::from_number(1);
    let name = Name::new("acme").unwrap();
    let store = Store::open(&path, root(), NOW, &mut entropy).await.unwrap();
    let mut w = store.write().await.unwrap();
    let id = w.create_tenant(&name, NOW, &mut entropy).await.unwrap();
    w.commit().await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(&path, root(), NOW, &mut entropy).await.unwrap();
    let mut r = store.read().await.unwrap();
    assert_eq!(r.settings().await.unwrap().schema, newest());
    assert_eq!(r.tenant_by_name(&name).await.unwrap().unwrap().id, id);
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut conn = writer(&path).await.unwrap();
    let mut all = ALL.to_vec();
    all.push(SECOND);
    apply(&mut conn, &path, &all, NOW).await.unwrap();
    let before = schema(&mut conn).await;
    let mut entropy = SeededEntropy::from_number(1);
    let error = Store::open(&path, Secret::new([7; 32]), NOW, &mut entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1, .. }), "{error}");
    assert!(
        error.to_string().contains("schema 2") && error.to_string().contains("up to 1"),
        "{error}"
    );
    assert_eq!(schema(&mut conn).await, before);
}

#[tokio::test]
async fn a_step_that_was_edited_after_it_was_taken_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut conn = writer(&path).await.unwrap();
    let mut all = ALL.to_vec();
    all.push(SECOND);
    apply(&mut conn, &path, &all, NOW).await.unwrap();
    all[1].sql = "ALTER TABLE tenants ADD COLUMN remark TEXT;";
    let error = apply(&mut conn, &path, &all, NOW).await.unwrap_err();
    assert!(error.to_string().starts_with("migration 2 is damaged"), "{error}");
}
