//! Killed at each point of writing, one after the other, from the making of the database on.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use coterie_crypto::{Secret, SeededEntropy};
use coterie_model::EnclaveId;
use coterie_store::{AuditEntry, AuditVerdict, Scope, Store, TenantId, TokenUse, Value, Write, write_points};

use crate::site::{NOW, add_change, member, name, new_token, root_key, static_key, tenant_with_enclave};

const PATH: &str = "COTERIE_STORE_CRASH_POINTS_PATH";
const POINT: &str = "COTERIE_CRASH_AT";

#[test]
fn what_is_left_at_each_point_is_whole() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // The process that dies is this very test, started anew.
    if let Some(path) = std::env::var_os(PATH) {
        runtime.block_on(write_in_three(Path::new(&path)));
        return;
    }
    let mut kept_at_ends = Vec::new();
    for point in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash_points::what_is_left_at_each_point_is_whole",
                "--nocapture",
            ])
            .env(PATH, &path)
            .env(POINT, point.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let last = |word: &str| {
            let mut numbers = said.lines().filter_map(|l| l.strip_prefix(word)?.trim().parse().ok());
            numbers.next_back().unwrap_or(0_u64)
        };
        let acknowledged = last("ack ");
        let kept = runtime.block_on(kept(&path));
        assert!(
            (acknowledged..=acknowledged + 1).contains(&kept),
            "point {point}: {acknowledged} acknowledged, {kept} kept"
        );
        kept_at_ends.push(kept);
        if output.status.success() {
            assert_eq!(last("points "), point - 1, "it died at every point before this one");
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "point {point}: {said}");
    }
    // Each transaction was lost at some points, and kept at one before anybody heard of it.
    kept_at_ends.dedup();
    assert_eq!(kept_at_ends, [0, 1, 2, 3]);
}

/// Three transactions; the second has two enrolments, and one that is undone.
async fn write_in_three(path: &Path) {
    let mut entropy = SeededEntropy::from_number(1);
    let store = Store::open(path, root_key(), NOW, &mut entropy).await.unwrap();
    let mut w = store.write().await.unwrap();
    let (tenant, enclave) = tenant_with_enclave(&mut w, "acme", "prod", &mut entropy).await;
    let template = name("web");
    let new = new_token(&template, 9);
    w.create_token(enclave, &new, NOW, &mut entropy).await.unwrap();
    w.commit().await.unwrap();
    println_now("ack 1");
    let mut w = store.write().await.unwrap();
    for (n, stays) in [(1, true), (2, false), (3, true)] {
        let savepoint = w.savepoint().await.unwrap();
        enrol(&mut w, tenant, enclave, n, &mut entropy).await;
        if stays {
            w.keep(savepoint).await.unwrap();
        } else {
            w.undo(savepoint).await.unwrap();
        }
    }
    w.commit().await.unwrap();
    println_now("ack 2");
    let mut w = store.write().await.unwrap();
    enrol(&mut w, tenant, enclave, 4, &mut entropy).await;
    w.commit().await.unwrap();
    println_now("ack 3");
    println_now(&format!("points {}", write_points()));
}

fn println_now(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // The harness may have begun a line.
    writeln!(out, "\n{line}").and_then(|()| out.flush()).unwrap();
}

async fn enrol(w: &mut Write, tenant: TenantId, enclave: EnclaveId, n: u64, entropy: &mut SeededEntropy) {
    let token = w.read().tokens(enclave).await.unwrap()[0].id;
    let used = w
        .use_token(token, member(n), &name("web-1"), "::1".parse().unwrap(), NOW)
        .await
        .unwrap();
    assert!(matches!(used, TokenUse::Used(_)));
    w.put_record(enclave, "member", &n.to_string(), Value::Secret(&[7; 500]), entropy)
        .await
        .unwrap();
    w.claim_static_key(enclave, member(n), &static_key(n)).await.unwrap();
    w.put_ticket(enclave, member(n), Some(token), &Secret::new([1; 32]), NOW)
        .await
        .unwrap();
    add_change(w, enclave, &n.to_string()).await.unwrap();
    let entry = AuditEntry {
        scope: Scope::Tenant(tenant),
        actor: "server",
        action: "member.enrol",
        object: &n.to_string(),
        detail: &serde_json::Value::Null,
    };
    w.audit(&entry, NOW).await.unwrap();
}

/// How many of the three transactions there are, each of which is whole.
async fn kept(path: &Path) -> u64 {
    let mut entropy = SeededEntropy::from_number(2);
    let store = Store::open(path, root_key(), NOW, &mut entropy).await.unwrap();
    let findings = store.check().await.unwrap().findings;
    assert!(findings.is_empty(), "{findings:?}");
    let mut r = store.read().await.unwrap();
    let Some(enclave) = r.all_enclaves().await.unwrap().pop() else {
        assert!(r.tenants().await.unwrap().is_empty());
        return 0;
    };
    let members: &[u64] = match enclave.revision {
        0 => &[],
        2 => &[1, 3],
        3 => &[1, 3, 4],
        half => panic!("{half} of three changes"),
    };
    let token = r.tokens(enclave.id).await.unwrap().remove(0);
    let ids: Vec<_> = members.iter().map(|n| member(*n)).collect();
    let uses = r.token_uses(enclave.id, token.id).await.unwrap();
    assert_eq!(uses.iter().map(|u| u.member).collect::<Vec<_>>(), ids);
    let holders = r.ticket_holders(enclave.id).await.unwrap();
    assert_eq!(holders.into_iter().map(|(who, _)| who).collect::<Vec<_>>(), ids);
    let records = r.records(enclave.id).await.unwrap();
    let keys = records.iter().filter(|record| record.kind == "member");
    let keys: Vec<u64> = keys.map(|record| record.key.parse().unwrap()).collect();
    assert_eq!(keys, members);
    for n in 1..=4 {
        let key = r.static_key(enclave.id, member(n)).await.unwrap();
        assert_eq!(key.is_some(), members.contains(&n), "{n}");
    }
    let rows = u64::try_from(members.len()).unwrap();
    assert_eq!(r.verify_audit().await.unwrap(), AuditVerdict::Whole { rows });
    1 + u64::from(rows > 0) + u64::from(rows > 2)
}
