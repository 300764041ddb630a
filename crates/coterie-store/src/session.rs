//! Transactions: [`Read`] sees one state of the database, [`Write`] changes it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use coterie_crypto::Secret;
use coterie_model::EnclaveId;
use sqlx::query::Query;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Database, Transaction};
use tokio::sync::OwnedMutexGuard;

use crate::audit::End;
use crate::crash::write_point;
use crate::id::ServerId;
use crate::row::Row;
use crate::seal::{RootKey, TenantKey};
use crate::sqlite::{Backend, is_constraint};
use crate::{Store, StoreError};

/// A statement with its values.
type Statement<'q> = Query<'q, Backend, <Backend as Database>::Arguments>;

/// One consistent state of the database: what was committed when [`Store::read`] returned. Whoever writes meanwhile is not
/// waited for, and not seen. While it lives the database cannot reuse the space of its log, so it is not to be kept.
#[derive(Debug)]
pub struct Read {
    link: Link,
    path: Arc<Path>,
    server: ServerId,
    root: Arc<RootKey>,
    /// The tenant's key of the enclave that it was last asked for.
    tenant_key: Option<(EnclaveId, Arc<TenantKey>)>,
    failed: bool,
}

/// Changes, all of which are kept by [`Write::commit`], or none. Dropping it rolls back. There is one at a time: others wait
/// in the order in which they came.
#[derive(Debug)]
pub struct Write {
    read: Read,
    roots: Arc<RootKeys>,
    rotation: Option<Rotation>,
    /// How many savepoints there were.
    savepoints: u32,
    /// Those of them that are neither kept nor undone, the outermost first.
    open: Vec<u32>,
    /// Where the audit log ends, once it was read.
    pub(crate) audit_end: Option<End>,
}

/// A root key that takes over with the commit.
#[derive(Debug)]
struct Rotation {
    old: Arc<RootKey>,
    new: Arc<RootKey>,
    /// How many savepoints there were before it.
    after: u32,
}

/// A point in a [`Write`] to which [`Write::undo`] goes back.
#[derive(Debug)]
#[must_use = "keep it or undo to it"]
pub struct Savepoint(u32);

/// The connection that writes, and whether it may have an open transaction.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) conn: SqliteConnection,
    pub(crate) open: bool,
}

#[derive(Debug)]
enum Link {
    Reader(Transaction<'static, Backend>),
    Writer(OwnedMutexGuard<Writer>),
}

/// The root key; for the moment of a rotation both, and the database says which.
#[derive(Debug)]
pub(crate) struct RootKeys(Mutex<Vec<Arc<RootKey>>>);

impl RootKeys {
    pub(crate) fn new(key: RootKey) -> Self {
        Self(Mutex::new(vec![Arc::new(key)]))
    }

    fn all(&self) -> Vec<Arc<RootKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, key: Arc<RootKey>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    fn keep_only(&self, key: &Arc<RootKey>) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|k| Arc::ptr_eq(k, key));
    }
}

/// What a table refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Constraint {
    /// There is such a row.
    Unique,
    /// The row that is referred to is not there, or is still referred to.
    Reference,
}

/// How often a read that met the commit of a root key's rotation begins anew.
const ROTATIONS_MET: usize = 3;

impl Read {
    pub(crate) async fn begin(store: &Store) -> Result<Self, StoreError> {
        for _ in 0..ROTATIONS_MET {
            let roots = store.roots.all();
            let begun = store.readers.begin().await;
            let tx = begun.map_err(|error| StoreError::of("beginning to read", &store.path, error))?;
            let mut read = Self::over(Link::Reader(tx), store, &roots[0]);
            // The first statement pins the state that all others see.
            if let Some(root) = read.right_root(&roots).await? {
                read.root = root;
                return Ok(read);
            }
        }
        Err(StoreError::WrongRootKey {
            path: store.path.to_path_buf(),
        })
    }

    fn over(link: Link, store: &Store, root: &Arc<RootKey>) -> Self {
        Self {
            link,
            path: Arc::clone(&store.path),
            server: store.server,
            root: Arc::clone(root),
            tenant_key: None,
            failed: false,
        }
    }

    async fn right_root(&mut self, roots: &[Arc<RootKey>]) -> Result<Option<Arc<RootKey>>, StoreError> {
        let query = sqlx::query("SELECT root_check FROM settings");
        let row = self.optional("reading the settings", query).await?;
        let check = row
            .ok_or(StoreError::NotFound {
                what: "row of settings",
            })?
            .bytes("root_check")?;
        let server = self.server;
        Ok(roots.iter().find(|root| root.opens_check(server, &check)).cloned())
    }

    pub(crate) fn server(&self) -> ServerId {
        self.server
    }

    pub(crate) fn root(&self) -> &RootKey {
        &self.root
    }

    pub(crate) fn known_tenant_key(&self, enclave: EnclaveId) -> Option<Arc<TenantKey>> {
        let (of, key) = self.tenant_key.as_ref()?;
        (*of == enclave).then(|| Arc::clone(key))
    }

    pub(crate) fn know_tenant_key(&mut self, enclave: EnclaveId, key: &Arc<TenantKey>) {
        self.tenant_key = Some((enclave, Arc::clone(key)));
    }

    /// To be called where an enclave may come or go.
    pub(crate) fn forget_tenant_key(&mut self) {
        self.tenant_key = None;
    }

    /// The connection, for what is not a statement.
    pub(crate) fn conn(&mut self) -> &mut SqliteConnection {
        match &mut self.link {
            Link::Reader(tx) => tx,
            Link::Writer(writer) => &mut writer.conn,
        }
    }

    pub(crate) async fn all(&mut self, doing: &'static str, query: Statement<'_>) -> Result<Vec<Row>, StoreError> {
        self.whole()?;
        let rows = query.fetch_all(self.conn()).await;
        Ok(self.noted(doing, rows)?.into_iter().map(Row).collect())
    }

    pub(crate) async fn optional(
        &mut self,
        doing: &'static str,
        query: Statement<'_>,
    ) -> Result<Option<Row>, StoreError> {
        self.whole()?;
        let row = query.fetch_optional(self.conn()).await;
        Ok(self.noted(doing, row)?.map(Row))
    }

    fn whole(&self) -> Result<(), StoreError> {
        if self.failed { Err(StoreError::Failed) } else { Ok(()) }
    }

    /// Tells an error apart. One that is not about what the statement says may have ended the transaction, and what came
    /// after it would be kept on its own: so nothing comes after it.
    pub(crate) fn noted<T>(&mut self, doing: &'static str, result: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        result.map_err(|error| {
            self.failed |= !is_constraint(&error);
            StoreError::of(doing, &self.path, error)
        })
    }
}

impl Write {
    pub(crate) async fn begin(store: &Store) -> Result<Self, StoreError> {
        const DOING: &str = "beginning to write";
        let Some(writer) = &store.writer else {
            return Err(StoreError::ReadOnly {
                doing: DOING,
                source: None,
            });
        };
        let mut writer = Arc::clone(writer).lock_owned().await;
        if writer.open {
            // Left by one that was dropped. When SQLite has ended it already, this fails, and that is as good.
            let _ = sqlx::query("ROLLBACK").execute(&mut writer.conn).await;
        }
        writer.open = true;
        write_point();
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut writer.conn).await;
        begun.map_err(|error| StoreError::of(DOING, &store.path, error))?;
        let roots = store.roots.all();
        let mut read = Read::over(Link::Writer(writer), store, &roots[0]);
        let root = read.right_root(&roots).await?.ok_or_else(|| StoreError::WrongRootKey {
            path: store.path.to_path_buf(),
        })?;
        store.roots.keep_only(&root);
        read.root = root;
        Ok(Self {
            read,
            roots: Arc::clone(&store.roots),
            rotation: None,
            savepoints: 0,
            open: Vec::new(),
            audit_end: None,
        })
    }

    /// Reads, what was written in this transaction included.
    pub fn read(&mut self) -> &mut Read {
        &mut self.read
    }

    /// Keeps everything. When it returns, all of it is on the disk; when it fails, nothing is. When its future is dropped
    /// before it returns, either may be.
    ///
    /// # Errors
    /// [`StoreError::Full`] and the like; [`StoreError::Failed`] when an earlier statement did.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        const DOING: &str = "committing";
        self.read.whole()?;
        if let Some(rotation) = &self.rotation {
            self.roots.add(Arc::clone(&rotation.new));
        }
        write_point();
        let done = sqlx::query("COMMIT").execute(self.read.conn()).await;
        self.read.noted(DOING, done)?;
        write_point();
        self.closed();
        if let Some(rotation) = &self.rotation {
            self.roots.keep_only(&rotation.new);
        }
        Ok(())
    }

    /// Undoes everything now; dropping does it when the next [`Write`] begins.
    ///
    /// # Errors
    /// When the database fails; nothing was kept even then.
    pub async fn rollback(mut self) -> Result<(), StoreError> {
        if self.read.failed {
            return Ok(());
        }
        let done = sqlx::query("ROLLBACK").execute(self.read.conn()).await;
        self.read.noted("rolling back", done)?;
        self.closed();
        Ok(())
    }

    /// Marks a point. With it several callers' operations share one transaction, and so one wait for the disk: each gets a
    /// savepoint, and one that fails is undone without the others. (An error like [`StoreError::Full`] fails them all.)
    ///
    /// # Errors
    /// When the database fails.
    pub async fn savepoint(&mut self) -> Result<Savepoint, StoreError> {
        let sql = format!("SAVEPOINT s{}", self.open.len());
        self.mark("marking a savepoint", sql).await?;
        self.savepoints += 1;
        self.open.push(self.savepoints);
        Ok(Savepoint(self.savepoints))
    }

    /// Goes on with what was done since the point.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep(&mut self, savepoint: Savepoint) -> Result<(), StoreError> {
        let at = self.place(&savepoint)?;
        self.mark("releasing a savepoint", format!("RELEASE SAVEPOINT s{at}"))
            .await?;
        self.open.truncate(at);
        Ok(())
    }

    /// Undoes what was done since the point.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn undo(&mut self, savepoint: Savepoint) -> Result<(), StoreError> {
        let at = self.place(&savepoint)?;
        self.mark("undoing to a savepoint", format!("ROLLBACK TO SAVEPOINT s{at}"))
            .await?;
        self.read.forget_tenant_key();
        self.audit_end = None;
        if let Some(undone) = self.rotation.take_if(|rotation| rotation.after >= savepoint.0) {
            self.read.root = undone.old;
        }
        self.keep(savepoint).await
    }

    /// How many savepoints there are around this one: its name in the database. One after the other has the same, so that
    /// its statements are prepared once.
    fn place(&self, savepoint: &Savepoint) -> Result<usize, StoreError> {
        let at = self.open.iter().position(|open| *open == savepoint.0);
        at.ok_or(StoreError::NotFound { what: "savepoint" })
    }

    async fn mark(&mut self, doing: &'static str, sql: String) -> Result<(), StoreError> {
        self.read.whole()?;
        let done = sqlx::query(AssertSqlSafe(sql)).execute(self.read.conn()).await;
        self.read.noted(doing, done)?;
        Ok(())
    }

    pub(crate) async fn execute(&mut self, doing: &'static str, query: Statement<'_>) -> Result<u64, StoreError> {
        self.read.whole()?;
        let done = query.execute(self.read.conn()).await;
        write_point();
        Ok(self.read.noted(doing, done)?.rows_affected())
    }

    /// Like [`Self::execute`], for statements whose refusal by a table means something.
    pub(crate) async fn execute_or(
        &mut self,
        doing: &'static str,
        query: Statement<'_>,
        refused: impl FnOnce(Constraint) -> StoreError + Send,
    ) -> Result<u64, StoreError> {
        self.read.whole()?;
        let done = query.execute(self.read.conn()).await;
        write_point();
        Ok(self.told_apart(doing, done, refused)?.rows_affected())
    }

    /// What a table refused is for the caller to say, everything else is not.
    fn told_apart<T>(
        &mut self,
        doing: &'static str,
        done: Result<T, sqlx::Error>,
        refused: impl FnOnce(Constraint) -> StoreError,
    ) -> Result<T, StoreError> {
        let kind = |error: &sqlx::Error| error.as_database_error().map(sqlx::error::DatabaseError::kind);
        match done.as_ref().err().and_then(kind) {
            Some(sqlx::error::ErrorKind::UniqueViolation) => Err(refused(Constraint::Unique)),
            Some(sqlx::error::ErrorKind::ForeignKeyViolation) => Err(refused(Constraint::Reference)),
            Some(_) | None => self.read.noted(doing, done),
        }
    }

    /// The row that a statement changed and returns.
    pub(crate) async fn returning(
        &mut self,
        doing: &'static str,
        query: Statement<'_>,
    ) -> Result<Option<Row>, StoreError> {
        // All rows: a statement that is left before its end has not ended.
        Ok(self.returning_all(doing, query).await?.pop())
    }

    /// Like [`Self::returning`], for statements whose refusal by a table means something.
    pub(crate) async fn returning_or(
        &mut self,
        doing: &'static str,
        query: Statement<'_>,
        refused: impl FnOnce(Constraint) -> StoreError + Send,
    ) -> Result<Option<Row>, StoreError> {
        self.read.whole()?;
        let done = query.fetch_all(self.read.conn()).await;
        write_point();
        Ok(self.told_apart(doing, done, refused)?.pop().map(Row))
    }

    /// The rows that a statement changed and returns.
    pub(crate) async fn returning_all(
        &mut self,
        doing: &'static str,
        query: Statement<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.read.all(doing, query).await;
        write_point();
        rows
    }

    /// Seals under another root key from here on.
    pub(crate) fn set_root(&mut self, key: Secret<32>) {
        let new = Arc::new(RootKey::new(key));
        let before = core::mem::replace(&mut self.read.root, Arc::clone(&new));
        // Of two rotations in one transaction the first is never seen.
        let (old, after) = match self.rotation.take() {
            Some(first) => (first.old, first.after),
            None => (before, self.savepoints),
        };
        self.rotation = Some(Rotation { old, new, after });
    }

    fn closed(&mut self) {
        match &mut self.read.link {
            Link::Writer(writer) => writer.open = false,
            Link::Reader(_) => {}
        }
    }
}
