//! One database, opened.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coterie_crypto::{Entropy, Secret};
use coterie_model::UnixTime;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokio::sync::Mutex;

use crate::crash::write_point;
use crate::id::{ServerId, Timeline};
use crate::row::stored_time;
use crate::seal::RootKey;
use crate::session::{RootKeys, Writer};
use crate::{Read, StoreError, Write, audit, migrations, sqlite};

/// One database, opened. Cheap to share by [`Arc`].
#[derive(Debug)]
pub struct Store {
    pub(crate) path: Arc<Path>,
    pub(crate) server: ServerId,
    pub(crate) writer: Option<Arc<Mutex<Writer>>>,
    pub(crate) readers: SqlitePool,
    pub(crate) roots: Arc<RootKeys>,
    /// Held for as long as the database is open for writing.
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the database at `path` for reading and writing, makes it if there is none (with mode 0600), brings its schema up
    /// to date, and counts the start. Next to the file there will be `path.lock`, and SQLite's `path-wal` and `path-shm`.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when a process has it open, [`StoreError::WrongRootKey`], [`StoreError::Newer`],
    /// [`StoreError::Foreign`] for a file that is not ours, [`StoreError::Full`] and [`StoreError::ReadOnly`].
    pub async fn open(
        path: &Path,
        root_key: Secret<32>,
        now: UnixTime,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        create(path)?;
        let mut conn = sqlite::writer(path).await?;
        sqlite::check_application(&mut conn, path).await?;
        migrations::apply(&mut conn, path, migrations::ALL, now).await?;
        let root = RootKey::new(root_key);
        let server = match server(&mut conn, path, &root).await? {
            Some(server) => server,
            None => found(&mut conn, path, &root, now, entropy).await?,
        };
        sqlx::query("UPDATE settings SET started = started + 1")
            .execute(&mut conn)
            .await
            .map_err(|error| StoreError::of("counting the start", path, error))?;
        write_point();
        Ok(Self {
            path: path.into(),
            server,
            readers: sqlite::readers(path).await?,
            writer: Some(Arc::new(Mutex::new(Writer { conn, open: false }))),
            roots: Arc::new(RootKeys::new(root)),
            _lock: Some(lock),
        })
    }

    /// Opens the database for reading alone, also while a server has it open: for checks and backups. [`Store::write`] is
    /// refused.
    ///
    /// # Errors
    /// As [`Store::open`]; [`StoreError::Older`] when the schema is not up to date.
    pub async fn open_read_only(path: &Path, root_key: Secret<32>) -> Result<Self, StoreError> {
        const DOING: &str = "opening the database for reading";
        std::fs::metadata(path).map_err(|error| StoreError::io(DOING, path, error))?;
        let readers = sqlite::readers(path).await?;
        let mut conn = readers
            .acquire()
            .await
            .map_err(|error| StoreError::of(DOING, path, error))?;
        sqlite::check_application(&mut conn, path).await?;
        let found = migrations::version(&mut conn, path, migrations::ALL).await?;
        let known = migrations::newest();
        match found.cmp(&known) {
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Less => {
                return Err(StoreError::Older {
                    path: path.to_owned(),
                    found,
                    known,
                });
            }
            core::cmp::Ordering::Greater => {
                return Err(StoreError::Newer {
                    path: path.to_owned(),
                    found,
                    known,
                });
            }
        }
        let root = RootKey::new(root_key);
        let server = server(&mut conn, path, &root).await?;
        drop(conn);
        Ok(Self {
            path: path.into(),
            server: server.ok_or_else(|| StoreError::damaged("the table of settings", "it is empty"))?,
            readers,
            writer: None,
            roots: Arc::new(RootKeys::new(root)),
            _lock: None,
        })
    }

    /// Begins to read one consistent state.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when all readers are taken for too long (30 s), and when the database fails.
    pub async fn read(&self) -> Result<Read, StoreError> {
        Read::begin(self).await
    }

    /// Begins to write: waits until those who came before are done.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], and when the database fails.
    pub async fn write(&self) -> Result<Write, StoreError> {
        Write::begin(self).await
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for whoever still reads or writes, moves the log into the database, and closes it.
    ///
    /// # Errors
    /// When the database fails; what was committed is kept even then.
    pub async fn close(self) -> Result<(), StoreError> {
        const DOING: &str = "closing the database";
        let path = Arc::clone(&self.path);
        let refused = |error| StoreError::of(DOING, &path, error);
        self.readers.close().await;
        let Some(writer) = self.writer else { return Ok(()) };
        // Nobody else can begin: the store is gone. Whoever writes ends, and gives the connection back.
        drop(Arc::clone(&writer).lock_owned().await);
        let mut left = writer;
        let mut writer = loop {
            match Arc::try_unwrap(left) {
                Ok(alone) => break alone.into_inner(),
                Err(shared) => {
                    drop(Arc::clone(&shared).lock_owned().await);
                    left = shared;
                }
            }
        };
        if writer.open {
            let _ = sqlx::query("ROLLBACK").execute(&mut writer.conn).await;
        }
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut writer.conn)
            .await
            .map_err(refused)?;
        sqlx::Connection::close(writer.conn).await.map_err(refused)
    }
}

/// The database's own id, if it has one, and the proof that the root key is right.
async fn server(conn: &mut SqliteConnection, path: &Path, root: &RootKey) -> Result<Option<ServerId>, StoreError> {
    let row = sqlx::query("SELECT server_id, root_check FROM settings")
        .fetch_optional(conn)
        .await
        .map_err(|error| StoreError::of("reading the settings", path, error))?;
    let Some(row) = row.map(crate::row::Row) else {
        return Ok(None);
    };
    let server = ServerId(row.array("server_id")?);
    if !root.opens_check(server, &row.bytes("root_check")?) {
        return Err(StoreError::WrongRootKey { path: path.to_owned() });
    }
    Ok(Some(server))
}

/// Gives a new database its identity.
async fn found(
    conn: &mut SqliteConnection,
    path: &Path,
    root: &RootKey,
    now: UnixTime,
    entropy: &mut (dyn Entropy + Send),
) -> Result<ServerId, StoreError> {
    let (server, timeline) = (ServerId::draw(entropy), Timeline::draw(entropy));
    let hash = audit::genesis(server);
    sqlx::query(
        "INSERT INTO settings (id, server_id, timeline, created, started, restored, root_check, audit_seq, audit_hash, \
         audit_mac) VALUES (1, $1, $2, $3, 0, 0, $4, 0, $5, $6)",
    )
    .bind(&server.0[..])
    .bind(&timeline.0[..])
    .bind(stored_time(now)?)
    .bind(root.seal_check(server, entropy))
    .bind(&hash[..])
    .bind(root.audit_mac(0, &hash).to_vec())
    .execute(conn)
    .await
    .map_err(|error| StoreError::of("making the database", path, error))?;
    write_point();
    Ok(server)
}

/// The right to write a database, of one process at a time; given back when it is dropped, or the process is killed.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being started at this moment has a copy of the file. An error leaves the
        // lock to the end of that one.
        let _ = self.0.unlock();
    }
}

/// Takes the database for this process.
pub(crate) fn lock(path: &Path) -> Result<Lock, StoreError> {
    const DOING: &str = "locking the database by";
    let name = beside(path, ".lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(|error| StoreError::io(DOING, &name, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(error)) => Err(StoreError::io(DOING, &name, error)),
    }
}

/// Makes the file, for its owner alone; SQLite gives its other files the same mode.
fn create(path: &Path) -> Result<(), StoreError> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => sync_directory(path),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::io("making the database", path, error)),
    }
}

/// Puts the names in a file's directory on the disk.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|error| StoreError::io("syncing the directory", parent, error))
}

/// The name of a file that goes with another.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
