//! Measures enrolments a second: token, records, static key, change and audit row in one transaction, on the disk. Prints
//! JSON. The directory to measure in is the argument (default: the current one).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coterie_crypto::{Secret, SeededEntropy};
use coterie_model::{EnclaveId, MemberId, Name, UnixTime};
use coterie_store::{
    AuditEntry, NewChange, NewToken, Scope, Store, StoreError, TenantId, TokenId, TokenUse, Value, Write,
};

const NOW: UnixTime = UnixTime(1_800_000_000);
const HOW_LONG: Duration = Duration::from_secs(3);

struct Bench {
    store: Store,
    tenant: TenantId,
    enclave: EnclaveId,
    token: TokenId,
    concerns: BTreeSet<Name>,
    next: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let directory = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = tempfile::tempdir_in(directory)?;
    let bench = Arc::new(Bench::new(&directory.path().join("db")).await?);
    let alone = measure(&bench, 1, 1).await?;
    let queued = measure(&bench, 32, 1).await?;
    let mut batches = serde_json::Map::new();
    for batch in [8, 32, 64, 128] {
        batches.insert(batch.to_string(), measure(&bench, 1, batch).await?);
    }
    let sync = syncs(&directory.path().join("sync"))?;
    let report = serde_json::json!({
        "what": "token use, 3 secret records of 600 bytes, static key, change, audit row",
        "one_writer": alone,
        "32_writers_queued": queued,
        "one_writer_batches": batches,
        "fsync_us": sync,
    });
    writeln!(std::io::stdout(), "{report:#}")?;
    Ok(())
}

impl Bench {
    async fn new(path: &std::path::Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut entropy = SeededEntropy::from_number(1);
        let store = Store::open(path, Secret::new([1; 32]), NOW, &mut entropy).await?;
        let (name, enclave) = (Name::new("bench")?, EnclaveId([2; 16]));
        let mut w = store.write().await?;
        let tenant = w.create_tenant(&name, NOW, &mut entropy).await?;
        w.create_enclave(tenant, enclave, &name, "", NOW).await?;
        let new = NewToken {
            template: &name,
            member: None,
            uses: u32::MAX,
            not_after: NOW,
            source: None,
            time_to_live: None,
            made_by: "bench",
        };
        let (token, _secret) = w.create_token(enclave, &new, NOW, &mut entropy).await?;
        w.commit().await?;
        let next = AtomicU64::new(0);
        Ok(Self {
            store,
            tenant,
            enclave,
            token,
            concerns: [name].into(),
            next,
        })
    }

    async fn enrol(&self, w: &mut Write, entropy: &mut SeededEntropy) -> Result<(), StoreError> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let (mut member, mut key) = (MemberId([0; 16]), [0; 32]);
        member.0[..8].copy_from_slice(&n.to_be_bytes());
        key[..8].copy_from_slice(&n.to_le_bytes());
        let name = n.to_string();
        let label = Name::new(&name).expect("digits are a name");
        let used = w
            .use_token(self.token, member, &label, [192, 0, 2, 1].into(), NOW)
            .await?;
        assert!(matches!(used, TokenUse::Used(_)), "the token is for everybody");
        for kind in ["member", "address", "address-of"] {
            w.put_record(self.enclave, kind, &name, Value::Secret(&[7; 600]), entropy)
                .await?;
        }
        w.claim_static_key(self.enclave, member, &key).await?;
        let change = NewChange {
            kind: "member",
            subject: &name,
            concerns: &self.concerns,
        };
        w.add_changes(self.enclave, &[change], NOW).await?;
        let entry = AuditEntry {
            scope: Scope::Tenant(self.tenant),
            actor: "server",
            action: "member.enrol",
            object: &name,
            detail: &serde_json::Value::Null,
        };
        w.audit(&entry, NOW).await?;
        Ok(())
    }
}

/// So many writers, each of whom waits for its commit before the next; `batch` enrolments in each.
async fn measure(bench: &Arc<Bench>, writers: u64, batch: u64) -> Result<serde_json::Value, StoreError> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let bench = Arc::clone(bench);
            tokio::spawn(async move {
                let mut entropy = SeededEntropy::from_number(writer);
                let mut waits = Vec::new();
                while start.elapsed() < HOW_LONG {
                    let begun = Instant::now();
                    let mut w = bench.store.write().await?;
                    for _ in 0..batch {
                        let savepoint = w.savepoint().await?;
                        bench.enrol(&mut w, &mut entropy).await?;
                        w.keep(savepoint).await?;
                    }
                    w.commit().await?;
                    waits.push(begun.elapsed());
                }
                Ok::<_, StoreError>(waits)
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("a writer does not panic")?);
    }
    let seconds = start.elapsed().as_secs_f64();
    waits.sort();
    let commits = waits.len();
    let at = |percent: usize| {
        waits
            .get(commits * percent / 100)
            .map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
    };
    let commits = u32::try_from(commits).map_or(f64::NAN, f64::from);
    let batch = u32::try_from(batch).map_or(f64::NAN, f64::from);
    Ok(serde_json::json!({
        "enrolments_per_s": (commits * batch / seconds).round(),
        "commits_per_s": (commits / seconds).round(),
        "wait_ms_p50": (at(50) * 100.0).round() / 100.0,
        "wait_ms_p99": (at(99) * 100.0).round() / 100.0,
    }))
}

/// What the disk alone costs: microseconds for 4 KiB and a sync, median.
fn syncs(path: &std::path::Path) -> std::io::Result<f64> {
    let mut file = std::fs::File::create_new(path)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok((times[100].as_secs_f64() * 1e7).round() / 10.0)
}
