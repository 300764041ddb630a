//! A disk that is full, and one that cannot be written: on a small file system of our own, or within limits.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use coterie_crypto::SeededEntropy;
use coterie_lab::{wait_for, within_namespaces};
use coterie_store::{Store, StoreError, Value};

use crate::site::{NOW, add_change, name, root_key, tenant_with_enclave};

#[test]
fn a_full_disk_is_said_and_got_over() {
    within_namespaces(|| {
        let dir = tempfile::tempdir().unwrap();
        mount(dir.path(), "size=2m");
        tokio::runtime::Runtime::new().unwrap().block_on(fill(dir.path()));
        unmount(dir.path());
    });
}

#[test]
fn a_disk_that_cannot_be_written_is_said() {
    within_namespaces(|| {
        let dir = tempfile::tempdir().unwrap();
        mount(dir.path(), "size=8m");
        tokio::runtime::Runtime::new()
            .unwrap()
            .block_on(be_read_only(dir.path()));
        unmount(dir.path());
    });
}

/// A disk takes no writes any more under a store that is open: reading goes on, and what is open for writing fails, as where the
/// kernel gives up on a disk. (It mounts none read-only that somebody has open for writing, so that the process forbids itself to
/// write as far as it did; a shell starts it so that this is not its end.)
#[test]
fn a_disk_that_takes_no_writes_any_more_is_said_and_got_over() {
    const INSIDE: &str = "COTERIE_WRITES_ARE_LIMITED";
    if std::env::var_os(INSIDE).is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(be_stuck());
        return;
    }
    let out = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "full::a_disk_that_takes_no_writes_any_more_is_said_and_got_over",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{out:?}");
}

/// How long a file may be that this process writes.
fn may_write(bytes: &str) {
    let pid = std::process::id().to_string();
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
    assert!(status.success(), "prlimit {limit}");
}

async fn be_stuck() {
    let dir = tempfile::tempdir().unwrap();
    let mut entropy = SeededEntropy::from_number(1);
    let path = dir.path().join("db");
    let store = Store::open(&path, root_key(), NOW, &mut entropy).await.unwrap();
    let mut w = store.write().await.unwrap();
    let (tenant, enclave) = tenant_with_enclave(&mut w, "acme", "prod", &mut entropy).await;
    w.commit().await.unwrap();
    let mut committed = 0;
    for round in 0..3 {
        may_write("4096");
        for size in [100, 20_000, 4_000_000] {
            let error = add(&store, enclave, committed, size, &mut entropy).await.unwrap_err();
            assert!(matches!(error, StoreError::ReadOnly { .. }), "round {round}: {error}");
            let revision = store.read().await.unwrap().enclave(tenant, enclave).await;
            assert_eq!(
                revision.unwrap().unwrap().revision,
                committed,
                "what is acknowledged is there"
            );
        }
        let error = store.backup(&dir.path().join("backup"), root_key()).await.unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
        may_write("unlimited");
        for _ in 0..10 {
            add(&store, enclave, committed, 20_000, &mut entropy).await.unwrap();
            committed += 1;
        }
        let report = store.check().await.unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
    store.close().await.unwrap();
    let store = Store::open(&path, root_key(), NOW, &mut entropy).await.unwrap();
    let records = store.read().await.unwrap().records(enclave).await.unwrap();
    let members = records.iter().filter(|r| r.kind == "member").count();
    assert_eq!(u64::try_from(members).unwrap(), committed);
}

fn mount(dir: &Path, options: &str) {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(dir)
        .status()
        .unwrap();
    assert!(status.success(), "mount -o {options}");
}

fn remount(dir: &Path, options: &str) {
    let status = Command::new("mount")
        // What stands in the table of mounts is not said again: an ordinary user's own number means nothing in here.
        .args(["--options-mode", "ignore", "-o", &format!("remount,{options}")])
        .arg(dir)
        .status()
        .unwrap();
    assert!(status.success(), "remount {options}");
}

/// The threads of SQLite close their files behind the store's back.
fn unmount(dir: &Path) {
    let unmounted = || {
        Command::new("umount")
            .arg(dir)
            .status()
            .unwrap()
            .success()
            .then_some(())
    };
    wait_for("the files to be closed", Duration::from_secs(10), unmounted).unwrap();
}

async fn fill(dir: &Path) {
    let mut entropy = SeededEntropy::from_number(1);
    let store = Store::open(&dir.join("db"), root_key(), NOW, &mut entropy)
        .await
        .unwrap();
    let mut w = store.write().await.unwrap();
    let (tenant, enclave) = tenant_with_enclave(&mut w, "acme", "prod", &mut entropy).await;
    w.commit().await.unwrap();
    let mut committed = 0_u64;
    let (mut refusals, mut at_commit) = (0, 0);
    let mut sizes = [3_000, 4_000_000, 100, 20_000].iter().cycle();
    let mut size = 20_000;
    // Full at the end of small transactions, and in the middle of one that is larger than the memory that it may take.
    while refusals < 16 {
        match add(&store, enclave, committed, size, &mut entropy).await {
            Ok(()) => committed += 1,
            Err(StoreError::Full { doing, .. }) => {
                at_commit += usize::from(doing == "committing");
                refusals += 1;
                size = *sizes.next().unwrap();
                let mut r = store.read().await.unwrap();
                let revision = r.enclave(tenant, enclave).await.unwrap().unwrap().revision;
                assert_eq!(revision, committed, "what is acknowledged is there, and no more");
            }
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
    }
    assert!(committed > 10);
    assert!((1..16).contains(&at_commit), "{at_commit} of 16 when committing");
    let error = store.backup(&dir.join("backup"), root_key()).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Full { .. }),
        "{error}: {:?}",
        std::error::Error::source(&error)
    );
    assert!(!dir.join("backup").exists() && !dir.join("backup.partial").exists());
    remount(dir, "size=16m");
    for _ in 0..10 {
        add(&store, enclave, committed, 20_000, &mut entropy).await.unwrap();
        committed += 1;
    }
    let report = store.check().await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    store.close().await.unwrap();
    let store = Store::open(&dir.join("db"), root_key(), NOW, &mut entropy)
        .await
        .unwrap();
    let records = store.read().await.unwrap().records(enclave).await.unwrap();
    let members = records.iter().filter(|r| r.kind == "member").count();
    assert_eq!(u64::try_from(members).unwrap(), committed);
}

/// A change and a record, or neither.
async fn add(
    store: &Store,
    enclave: coterie_model::EnclaveId,
    n: u64,
    size: usize,
    entropy: &mut SeededEntropy,
) -> Result<(), StoreError> {
    let mut w = store.write().await?;
    add_change(&mut w, enclave, "x").await?;
    let written = w
        .put_record(
            enclave,
            "member",
            &n.to_string(),
            Value::Secret(&vec![7; size]),
            entropy,
        )
        .await;
    if let Err(error) = written {
        // The transaction may have ended by itself: nothing more is taken, so that nothing is kept by half.
        let after = add_change(&mut w, enclave, "stray").await.unwrap_err();
        assert!(matches!(after, StoreError::Failed), "{after}");
        let commit = w.commit().await.unwrap_err();
        assert!(matches!(commit, StoreError::Failed), "{commit}");
        return Err(error);
    }
    w.commit().await
}

async fn be_read_only(dir: &Path) {
    let mut entropy = SeededEntropy::from_number(1);
    let path = dir.join("db");
    let store = Store::open(&path, root_key(), NOW, &mut entropy).await.unwrap();
    let mut w = store.write().await.unwrap();
    w.create_tenant(&name("acme"), NOW, &mut entropy).await.unwrap();
    w.commit().await.unwrap();
    store.close().await.unwrap();
    remount(dir, "ro");
    let error = Store::open(&path, root_key(), NOW, &mut entropy).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    let error = Store::restore(&path, &dir.join("new"), root_key(), NOW, &mut entropy)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    remount(dir, "rw");
    Store::open(&path, root_key(), NOW, &mut entropy).await.unwrap();
}
