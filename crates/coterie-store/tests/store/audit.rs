//! The audit log is what was written, or it is said where not.

use coterie_store::{AuditEntry, AuditVerdict, FindingKind, Scope};

use crate::site::{NOW, Site, edit, root_key};

const ROWS: u64 = 7;

async fn written() -> Site {
    let site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    for n in 1..=ROWS {
        let detail = serde_json::json!({ "n": n });
        let entry = AuditEntry {
            scope: if n % 2 == 0 {
                Scope::Operator
            } else {
                Scope::Tenant(site.tenant)
            },
            actor: "ada",
            action: "token.create",
            object: "web",
            detail: &detail,
        };
        assert_eq!(w.audit(&entry, NOW).await.unwrap(), n);
    }
    w.commit().await.unwrap();
    site
}

#[tokio::test]
async fn each_reads_its_own_log_in_order() {
    let site = written().await;
    let mut r = site.store.read().await.unwrap();
    let seqs = |rows: Vec<coterie_store::AuditRow>| rows.iter().map(|row| row.seq).collect::<Vec<_>>();
    assert_eq!(
        seqs(r.audit(Scope::Tenant(site.tenant), 0, 100).await.unwrap()),
        [1, 3, 5, 7]
    );
    assert_eq!(seqs(r.audit(Scope::Tenant(site.tenant), 1, 2).await.unwrap()), [3, 5]);
    assert_eq!(seqs(r.audit(Scope::Operator, 0, 100).await.unwrap()), [2, 4, 6]);
    let newest = r.newest_audit(Scope::Tenant(site.tenant), 2).await.unwrap();
    assert_eq!(seqs(newest), [5, 7]);
    assert_eq!(seqs(r.newest_audit(Scope::Operator, 100).await.unwrap()), [2, 4, 6]);
    assert_eq!(seqs(r.audit_of_all(5, 100).await.unwrap()), [6, 7]);
    assert_eq!(r.verify_audit().await.unwrap(), AuditVerdict::Whole { rows: ROWS });
}

#[tokio::test]
async fn no_statement_changes_or_deletes_a_row() {
    let site = written().await;
    let mut conn = site.sql().await;
    for sql in ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit WHERE seq = 7"] {
        let error = sqlx::raw_sql(sql).execute(&mut conn).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
}

const DROP: &str = "DROP TRIGGER audit_is_not_changed; DROP TRIGGER audit_is_not_deleted";

/// Verdict after an edit by somebody who can write the file.
async fn verdict(sql: &'static str) -> AuditVerdict {
    let site = written().await;
    let mut conn = site.sql().await;
    edit(&mut conn, DROP).await;
    assert!(edit(&mut conn, sql).await > 0, "{sql}");
    let verdict = site.store.read().await.unwrap().verify_audit().await.unwrap();
    let findings = site.store.check().await.unwrap().findings;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].kind, FindingKind::Audit);
    verdict
}

#[tokio::test]
async fn every_edit_is_found_at_its_row() {
    let cases = [
        ("UPDATE audit SET actor = 'eve' WHERE seq = 3", 3),
        ("UPDATE audit SET time = time + 1 WHERE seq = 1", 1),
        ("UPDATE audit SET tenant_id = NULL WHERE seq = 5", 5),
        ("UPDATE audit SET tenant_id = zeroblob(16) WHERE seq = 4", 4),
        (
            "UPDATE audit SET action = 'token.creat', object = 'eweb' WHERE seq = 2",
            2,
        ),
        ("UPDATE audit SET detail = '{}' WHERE seq = 7", 7),
        ("UPDATE audit SET hash = zeroblob(32) WHERE seq = 6", 6),
        ("DELETE FROM audit WHERE seq = 4", 4),
        ("DELETE FROM audit WHERE seq = 1", 1),
        ("DELETE FROM audit WHERE seq > 5", 6),
        ("DELETE FROM audit", 1),
        (
            "DELETE FROM audit WHERE seq = 4; UPDATE audit SET seq = seq - 1 WHERE seq > 4",
            4,
        ),
        (
            "UPDATE settings SET audit_seq = 5, audit_hash = (SELECT hash FROM audit WHERE seq = 5); \
             DELETE FROM audit WHERE seq > 5",
            5,
        ),
        ("UPDATE settings SET audit_mac = zeroblob(32)", 7),
    ];
    for (sql, row) in cases {
        match verdict(sql).await {
            AuditVerdict::Broken { seq, .. } => assert_eq!(seq, row, "{sql}"),
            AuditVerdict::Whole { rows } => panic!("{rows} rows pass after: {sql}"),
        }
    }
}

#[tokio::test]
async fn a_log_longer_than_a_page_is_walked_to_its_end() {
    let site = Site::new().await;
    let mut w = site.store.write().await.unwrap();
    let entry = AuditEntry {
        scope: Scope::Operator,
        actor: "ada",
        action: "a",
        object: "o",
        detail: &serde_json::Value::Null,
    };
    for _ in 0..1_001 {
        w.audit(&entry, NOW).await.unwrap();
    }
    w.commit().await.unwrap();
    let rows = site.store.read().await.unwrap().verify_audit().await.unwrap();
    assert_eq!(rows, AuditVerdict::Whole { rows: 1_001 });
    let mut conn = site.sql().await;
    edit(&mut conn, DROP).await;
    edit(&mut conn, "UPDATE audit SET actor = 'eve' WHERE seq = 1001").await;
    let found = site.store.read().await.unwrap().verify_audit().await.unwrap();
    assert!(matches!(found, AuditVerdict::Broken { seq: 1_001, .. }), "{found:?}");
}

#[tokio::test]
async fn a_new_root_key_vouches_for_the_old_log_and_not_for_a_forged_one() {
    let mut site = written().await;
    let mut w = site.store.write().await.unwrap();
    w.rotate_root_key(root_key(), &mut site.entropy).await.unwrap();
    w.commit().await.unwrap();
    let verdict = site.store.read().await.unwrap().verify_audit().await.unwrap();
    assert_eq!(verdict, AuditVerdict::Whole { rows: ROWS });
    edit(&mut site.sql().await, "UPDATE settings SET audit_mac = zeroblob(32)").await;
    let mut w = site.store.write().await.unwrap();
    let error = w.rotate_root_key(root_key(), &mut site.entropy).await.unwrap_err();
    assert!(error.to_string().contains("audit log"), "{error}");
}
