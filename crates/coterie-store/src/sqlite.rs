//! What is SQLite's own: how it is opened, how its errors are told apart, and what it does to files.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Row as _};

use crate::StoreError;

/// The database that this build speaks to.
pub(crate) type Backend = Sqlite;

/// In the header of our files: "Cote".
const APPLICATION: i64 = 0x436f_7465;
/// How long a statement waits for another process's lock.
const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements that a connection keeps: more than there are.
const STATEMENTS: usize = 256;
/// Readers at once; more wait their turn.
const READERS: u32 = 4;

/// What an error comes from, as far as a caller can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Full,
    ReadOnly,
    Busy,
    NotADatabase,
    Corrupt,
    Other,
}

/// Tells errors apart by the result code (the low byte is the primary one).
pub(crate) fn cause(error: &sqlx::Error) -> Cause {
    if matches!(error, sqlx::Error::PoolTimedOut) {
        return Cause::Busy;
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let Some(code) = code.and_then(|code| code.parse::<i32>().ok()) else {
        return Cause::Other;
    };
    match code & 0xff {
        13 => Cause::Full,
        8 => Cause::ReadOnly,
        5 | 6 => Cause::Busy,
        26 => Cause::NotADatabase,
        11 => Cause::Corrupt,
        // Of the errors of input and output, the one of making the shared memory larger means nothing but no room.
        10 if code == 10 | (19 << 8) => Cause::Full,
        // Writing to a file that is open, or to its disk, failed: the kernel lets nobody write to a disk that is broken.
        10 if code == 10 | (3 << 8) || code == 10 | (4 << 8) => Cause::ReadOnly,
        _ => Cause::Other,
    }
}

/// Whether a statement was refused for what it says, which leaves its transaction as it was.
pub(crate) fn is_constraint(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| code & 0xff == 19)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .statement_cache_capacity(STATEMENTS)
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .disable_statement_logging()
}

/// The one connection that writes.
pub(crate) async fn writer(path: &Path) -> Result<SqliteConnection, StoreError> {
    options(path)
        .create_if_missing(true)
        // What it takes to undo to a savepoint, which is of no use to another process, stays off the disk.
        .pragma("temp_store", "MEMORY")
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await
        .map_err(|error| StoreError::of("opening the database", path, error))
}

/// Connections that read.
pub(crate) async fn readers(path: &Path) -> Result<SqlitePool, StoreError> {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(0)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options(path).read_only(true))
        .await
        .map_err(|error| StoreError::of("opening the database for reading", path, error))
}

/// Whether the file is empty, ours, or somebody else's.
pub(crate) async fn check_application(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let refused = |error| StoreError::of("reading the database's header", path, error);
    let application = number(conn, "PRAGMA application_id").await.map_err(refused)?;
    let tables = number(conn, "SELECT count(*) FROM sqlite_schema")
        .await
        .map_err(refused)?;
    match (application, tables) {
        (APPLICATION, _) => Ok(()),
        (0, 0) => Ok(()),
        (other, tables) => Err(StoreError::Foreign {
            path: path.to_owned(),
            reason: format!("application id {other:#x}, {tables} tables and indexes"),
        }),
    }
}

/// Marks the file as ours; part of the first migration's transaction.
pub(crate) async fn mark_application(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("PRAGMA application_id = 1131377765").execute(conn).await?;
    Ok(())
}

/// True when the table is there.
pub(crate) async fn has_table(conn: &mut SqliteConnection, name: &str) -> Result<bool, sqlx::Error> {
    let row = sqlx::query("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = $1")
        .bind(name)
        .fetch_one(conn)
        .await?;
    Ok(row.try_get::<i64, _>(0)? > 0)
}

/// A consistent copy of the whole database in a new file, while others write.
pub(crate) async fn copy_into(conn: &mut SqliteConnection, to: &Path) -> Result<(), sqlx::Error> {
    let to = to.to_str().ok_or_else(|| {
        let what = std::io::Error::new(std::io::ErrorKind::InvalidInput, "a path that is not UTF-8");
        sqlx::Error::Io(what)
    })?;
    sqlx::query("VACUUM INTO $1").bind(to).execute(conn).await?;
    Ok(())
}

/// What SQLite's own checks find; empty when all is well. A connection that only reads does not know the tables' CHECK
/// constraints, so what must hold there is to be checked by whoever relies on it.
pub(crate) async fn integrity(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query("PRAGMA integrity_check(20)").fetch_all(conn).await?;
    let lines: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Rows that refer to rows that are not there.
pub(crate) async fn dangling(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query("PRAGMA foreign_key_check").fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let (table, parent): (String, String) = (row.try_get(0)?, row.try_get(2)?);
            let rowid: Option<i64> = row.try_get(1)?;
            let at = rowid.map_or_else(String::new, |id| format!(" {id}"));
            Ok(format!("row{at} of {table} refers to no row of {parent}"))
        })
        .collect()
}

async fn number(conn: &mut SqliteConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query(sql).fetch_one(conn).await?.try_get(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_committed_is_synced_and_references_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut writer = writer(&path).await.unwrap();
        let mut reader = readers(&path).await.unwrap().acquire().await.unwrap();
        // synchronous: 2 is FULL.
        for (pragma, expected) in [
            ("PRAGMA synchronous", 2),
            ("PRAGMA foreign_keys", 1),
            ("PRAGMA busy_timeout", 5_000),
        ] {
            assert_eq!(number(&mut writer, pragma).await.unwrap(), expected, "{pragma}");
        }
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut *reader)
            .await
            .unwrap();
        assert_eq!(mode, "wal");
        let error = mark_application(&mut reader).await.unwrap_err();
        assert_eq!(cause(&error), Cause::ReadOnly);
        mark_application(&mut writer).await.unwrap();
        assert_eq!(number(&mut reader, "PRAGMA application_id").await.unwrap(), APPLICATION);
    }
}
