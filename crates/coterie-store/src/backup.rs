//! Backups: made while the server works, checked before they count, and restored where nothing is.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use coterie_crypto::{Entropy, Secret};
use coterie_model::UnixTime;
use serde_json::json;

use crate::id::{Scope, Timeline, hex};
use crate::row::stored;
use crate::store::{beside, lock, sync_directory};
use crate::{AuditEntry, Report, Store, StoreError, Write, sqlite};

/// After a restore, versions and revisions go on from the time in seconds times this. In a second nobody makes as many, so
/// that none which was given out before the restore, in whatever history, is given out again.
const JUMP: u64 = 1 << 20;

impl Store {
    /// Makes a backup in a new file (mode 0600): consistent, compact, on the disk, and checked under `root_key`, which is to
    /// be kept elsewhere: the backup is of no use without it. Others write meanwhile. Gives what the check saw.
    ///
    /// # Errors
    /// [`StoreError::FileExists`]; [`StoreError::Full`]; [`StoreError::BadBackup`] when the check finds anything, and then
    /// there is no file.
    pub async fn backup(&self, to: &Path, root_key: Secret<32>) -> Result<Report, StoreError> {
        const DOING: &str = "making a backup";
        refuse_existing(to)?;
        let partial = beside(to, ".partial");
        remove(&partial)?;
        let made = async {
            let file = private(&partial, DOING)?;
            let mut conn = self
                .readers
                .acquire()
                .await
                .map_err(|error| StoreError::of(DOING, &self.path, error))?;
            let copied = sqlite::copy_into(&mut conn, &partial).await;
            copied.map_err(|error| StoreError::of(DOING, &partial, error))?;
            drop(conn);
            file.sync_all()
                .map_err(|error| StoreError::io(DOING, &partial, error))?;
            let copy = Self::open_read_only(&partial, root_key).await?;
            let report = copy.check().await?;
            copy.close().await?;
            good(&report, to)?;
            publish(&partial, to, DOING)?;
            Ok(report)
        };
        let made = made.await;
        if made.is_err() {
            // Whatever went wrong is said; that the rest of it could not be removed is not worth more words.
            let _ = remove(&partial);
        }
        made
    }

    /// Makes a database at `path` from a backup. It is counted in the settings and remembered in the audit log, and every
    /// enclave's version and revision jump beyond all that were given out, so that whoever follows starts from a snapshot.
    ///
    /// # Errors
    /// [`StoreError::FileExists`] when there is a database at `path`, [`StoreError::InUse`] when one is about to be made
    /// there; [`StoreError::BadBackup`], [`StoreError::WrongRootKey`] and [`StoreError::Newer`] for a backup that is not
    /// to be used. Then there is nothing at `path`.
    pub async fn restore(
        backup: &Path,
        path: &Path,
        root_key: Secret<32>,
        now: UnixTime,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<Report, StoreError> {
        for suffix in ["", "-wal", "-journal", "-shm"] {
            refuse_existing(&beside(path, suffix))?;
        }
        if std::fs::metadata(beside(backup, "-wal")).is_ok_and(|log| log.len() > 0) {
            return Err(StoreError::BadBackup {
                path: backup.to_owned(),
                first: "a log lies beside it, so it is a database at work, not a backup; make a backup of it"
                    .to_owned(),
            });
        }
        let _lock = lock(path)?;
        let partial = beside(path, ".partial");
        let remove_all = || {
            ["", "-wal", "-shm", "-journal", ".lock"]
                .iter()
                .try_for_each(|s| remove(&beside(&partial, s)))
        };
        remove_all()?;
        let restored = async {
            copy(backup, &partial)?;
            let store = Self::open(&partial, root_key, now, entropy).await?;
            let report = store.check().await?;
            good(&report, backup)?;
            let mut w = store.write().await?;
            w.count_restore(now, entropy).await?;
            w.commit().await?;
            store.close().await?;
            publish(&partial, path, "restoring a backup")?;
            Ok(report)
        };
        let restored = restored.await;
        let removed = remove_all();
        let report = restored?;
        removed?;
        Ok(report)
    }
}

impl Write {
    async fn count_restore(&mut self, now: UnixTime, entropy: &mut (dyn Entropy + Send)) -> Result<(), StoreError> {
        const DOING: &str = "counting the restore";
        let timeline = Timeline::draw(entropy);
        let before = self.read().settings().await?;
        let query = sqlx::query("UPDATE settings SET restored = restored + 1, timeline = $1").bind(timeline.0.to_vec());
        self.execute(DOING, query).await?;
        let floor = stored("the time", now.0.saturating_mul(JUMP))?;
        let query = sqlx::query(
            "UPDATE enclaves SET version = CASE WHEN version < $1 THEN $1 ELSE version + 1 END, \
             revision = CASE WHEN revision < $1 THEN $1 ELSE revision + 1 END",
        )
        .bind(floor);
        self.execute(DOING, query).await?;
        self.execute(DOING, sqlx::query("UPDATE enclaves SET changes_floor = revision"))
            .await?;
        self.execute(DOING, sqlx::query("DELETE FROM changes")).await?;
        let detail = json!({ "timeline_before": hex(&before.timeline.0), "timeline": hex(&timeline.0) });
        let entry = AuditEntry {
            scope: Scope::Operator,
            actor: "server",
            action: "database.restore",
            object: &before.server.to_string(),
            detail: &detail,
        };
        self.audit(&entry, now).await?;
        Ok(())
    }
}

fn good(report: &Report, path: &Path) -> Result<(), StoreError> {
    match report.findings.first() {
        None => Ok(()),
        Some(first) => Err(StoreError::BadBackup {
            path: path.to_owned(),
            first: first.to_string(),
        }),
    }
}

fn refuse_existing(path: &Path) -> Result<(), StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(StoreError::FileExists { path: path.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("looking for", path, error)),
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("removing", path, error)),
    }
}

/// A new file for its owner alone.
fn private(path: &Path, doing: &'static str) -> Result<File, StoreError> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| StoreError::io(doing, path, error))
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut source = File::open(from).map_err(|error| StoreError::io("reading the backup", from, error))?;
    let mut copy = private(to, "copying the backup to")?;
    std::io::copy(&mut source, &mut copy).map_err(|error| StoreError::io("copying the backup to", to, error))?;
    Ok(())
}

/// Gives a finished file its name, and puts both on the disk.
fn publish(partial: &Path, path: &Path, doing: &'static str) -> Result<(), StoreError> {
    let refused = |error| StoreError::io(doing, path, error);
    File::open(partial).and_then(|file| file.sync_all()).map_err(refused)?;
    refuse_existing(path)?;
    std::fs::rename(partial, path).map_err(refused)?;
    sync_directory(path)
}
