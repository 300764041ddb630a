//! kill -9 at any moment: what was acknowledged is there, and nothing is half done.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use coterie_crypto::{Entropy as _, SeededEntropy};
use coterie_store::{AuditEntry, AuditVerdict, Scope, Store, TenantId, TokenId, TokenUse, Value};

use crate::site::{NOW, Site, add_change, member, name, new_token, root_key, static_key};

const KILLS: u64 = 60;
const PATH: &str = "COTERIE_STORE_CRASH_PATH";

#[test]
fn what_was_acknowledged_survives_kill_9() {
    // The process that is killed is this very test, started anew.
    if let Some(path) = std::env::var_os(PATH) {
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(write_for_ever(Path::new(&path)));
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (site, token) = runtime.block_on(prepared());
    let (path, tenant) = (site.path(), site.tenant);
    let Site {
        store,
        mut entropy,
        dir: _dir,
        ..
    } = site;
    runtime
        .block_on(std::sync::Arc::into_inner(store).unwrap().close())
        .unwrap();
    let mut acknowledged = 0;
    for kill in 0..KILLS {
        let mut moment = [0; 2];
        entropy.fill(&mut moment);
        let last = run_and_kill(
            &path,
            1 + u64::from(moment[0] % 16),
            Duration::from_micros(u64::from(moment[1]) * 20),
        );
        acknowledged = last.max(acknowledged);
        let kept = runtime.block_on(kept(&path, tenant, token, &mut entropy));
        assert!(
            kept >= acknowledged,
            "kill {kill}: {acknowledged} were acknowledged, {kept} are kept"
        );
        // At most the one that was being committed is there without having been acknowledged.
        assert!(
            kept <= acknowledged + 1,
            "kill {kill}: {acknowledged} were acknowledged, {kept} are kept"
        );
        acknowledged = kept;
    }
    assert!(acknowledged >= KILLS);
}

async fn prepared() -> (Site, TokenId) {
    let mut site = Site::new().await;
    let template = name("web");
    let mut w = site.store.write().await.unwrap();
    let new = new_token(&template, 1_000_000);
    let (token, _) = w
        .create_token(site.enclave, &new, NOW, &mut site.entropy)
        .await
        .unwrap();
    w.commit().await.unwrap();
    (site, token)
}

/// Starts a writer, reads so many acknowledgements, waits a random moment more, and kills it. Gives the last number that it
/// acknowledged.
fn run_and_kill(path: &Path, acknowledgements: u64, more: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::what_was_acknowledged_survives_kill_9", "--nocapture"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut number = || {
        lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|l| l.strip_prefix("ack ")?.parse().ok())
    };
    let mut last = 0;
    for _ in 0..acknowledgements {
        last = number().expect("the writer writes until it is killed");
    }
    // No wait for anything: the moment of the kill is what is varied.
    std::thread::sleep(more);
    child.kill().unwrap();
    child.wait().unwrap();
    // What it acknowledged between the last one that was read and the kill counts as well.
    while let Some(later) = number() {
        last = later;
    }
    last
}

/// How many transactions there are, each of which is whole.
async fn kept(path: &Path, tenant: TenantId, token: TokenId, entropy: &mut SeededEntropy) -> u64 {
    let store = Store::open(path, root_key(), NOW, entropy).await.unwrap();
    let report = store.check().await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let mut r = store.read().await.unwrap();
    let enclave = r.enclave_by_name(tenant, &name("prod")).await.unwrap().unwrap();
    let n = enclave.revision;
    assert_eq!(
        u64::from(r.token(enclave.id, token).await.unwrap().unwrap().uses_made),
        n
    );
    assert_eq!(r.verify_audit().await.unwrap(), AuditVerdict::Whole { rows: n });
    let records = r.records(enclave.id).await.unwrap();
    let mut numbers: Vec<u64> = records
        .iter()
        .filter(|record| record.kind == "member")
        .map(|record| record.key.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=n).collect::<Vec<_>>());
    for number in numbers {
        let key = r.static_key(enclave.id, member(number)).await.unwrap();
        assert_eq!(key, Some(static_key(number)));
    }
    drop(r);
    store.close().await.unwrap();
    n
}

async fn write_for_ever(path: &Path) {
    let mut entropy = SeededEntropy::from_number(u64::from(std::process::id()));
    let store = Store::open(path, root_key(), NOW, &mut entropy).await.unwrap();
    let mut r = store.read().await.unwrap();
    let tenant = r.tenants().await.unwrap()[0].id;
    let enclave = r.enclaves(tenant).await.unwrap().remove(0);
    let token = r.tokens(enclave.id).await.unwrap()[0].id;
    drop(r);
    for n in enclave.revision + 1.. {
        let mut w = store.write().await.unwrap();
        let used = w
            .use_token(token, member(n), &name("web-1"), "::1".parse().unwrap(), NOW)
            .await
            .unwrap();
        assert!(matches!(used, TokenUse::Used(_)));
        let (kind, key) = ("member", n.to_string());
        w.put_record(enclave.id, kind, &key, Value::Secret(&[7; 2_000]), &mut entropy)
            .await
            .unwrap();
        w.claim_static_key(enclave.id, member(n), &static_key(n)).await.unwrap();
        add_change(&mut w, enclave.id, &key).await.unwrap();
        let entry = AuditEntry {
            scope: Scope::Tenant(tenant),
            actor: "server",
            action: "member.enrol",
            object: &key,
            detail: &serde_json::Value::Null,
        };
        w.audit(&entry, NOW).await.unwrap();
        w.commit().await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "ack {n}").and_then(|()| out.flush()).unwrap();
    }
}
