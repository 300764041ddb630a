//! The schema, step by step. A step that was released is never edited: its hash is kept in every database that took it.

use std::path::Path;

use coterie_crypto::hash::sha256;
use coterie_model::UnixTime;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use crate::crash::write_point;
use crate::{StoreError, sqlite};

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Migration {
    /// Its number; the first is 1, and none is left out.
    pub(crate) version: u32,
    /// What it is about.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) sql: &'static str,
}

/// All steps, the oldest first.
pub(crate) const ALL: &[Migration] = &[Migration {
    version: 1,
    name: "first",
    sql: include_str!("../migrations/0001_first.sql"),
}];

/// The schema that this program reads and writes.
pub(crate) fn newest() -> u32 {
    newest_of(ALL)
}

fn newest_of(migrations: &[Migration]) -> u32 {
    migrations.last().map_or(0, |m| m.version)
}

const TABLE: &str = "CREATE TABLE migrations (version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
                     hash BLOB NOT NULL, applied INTEGER NOT NULL) STRICT";

/// Brings the database up to the newest of `migrations`, each step in a transaction of its own.
///
/// # Errors
/// [`StoreError::Newer`] when the database is ahead, [`StoreError::Damaged`] when it took a step that is not ours.
pub(crate) async fn apply(
    conn: &mut SqliteConnection,
    path: &Path,
    migrations: &[Migration],
    now: UnixTime,
) -> Result<(), StoreError> {
    while let Some(step) = next(conn, path, migrations).await? {
        write_point();
        let begun = sqlx::query("BEGIN IMMEDIATE").execute(&mut *conn).await;
        let taken = match begun {
            Ok(_) => take(conn, step, now).await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            // SQLite may have ended the transaction itself; then there is nothing to roll back, which is as good.
            let _ = sqlx::query("ROLLBACK").execute(&mut *conn).await;
            return Err(StoreError::of("bringing the schema up to date", path, error));
        }
    }
    Ok(())
}

async fn take(conn: &mut SqliteConnection, step: &Migration, now: UnixTime) -> Result<(), sqlx::Error> {
    if !sqlite::has_table(conn, "migrations").await? {
        sqlx::query(TABLE).execute(&mut *conn).await?;
        sqlite::mark_application(conn).await?;
    }
    sqlx::raw_sql(step.sql).execute(&mut *conn).await?;
    write_point();
    sqlx::query("INSERT INTO migrations (version, name, hash, applied) VALUES ($1, $2, $3, $4)")
        .bind(i64::from(step.version))
        .bind(step.name)
        .bind(hash(step).to_vec())
        .bind(i64::try_from(now.0).unwrap_or(i64::MAX))
        .execute(&mut *conn)
        .await?;
    write_point();
    sqlx::query("COMMIT").execute(&mut *conn).await?;
    write_point();
    Ok(())
}

/// The first step that the database did not take.
async fn next<'a>(
    conn: &mut SqliteConnection,
    path: &Path,
    migrations: &'a [Migration],
) -> Result<Option<&'a Migration>, StoreError> {
    let found = version(conn, path, migrations).await?;
    let known = newest_of(migrations);
    if found > known {
        let path = path.to_owned();
        return Err(StoreError::Newer { path, found, known });
    }
    Ok(migrations.iter().find(|step| step.version > found))
}

/// The schema that the database has; 0 for an empty one. The steps that it took are compared with ours.
pub(crate) async fn version(
    conn: &mut SqliteConnection,
    path: &Path,
    migrations: &[Migration],
) -> Result<u32, StoreError> {
    let refused = |error| StoreError::of("reading the schema's version", path, error);
    if !sqlite::has_table(conn, "migrations").await.map_err(refused)? {
        return Ok(0);
    }
    let rows = sqlx::query("SELECT version, hash FROM migrations ORDER BY version")
        .fetch_all(&mut *conn)
        .await
        .map_err(refused)?;
    let mut newest = 0;
    for row in rows {
        let number: i64 = row.try_get("version").map_err(refused)?;
        let found: Vec<u8> = row.try_get("hash").map_err(refused)?;
        newest =
            u32::try_from(number).map_err(|_large| StoreError::damaged("the table of migrations", "its numbers"))?;
        let ours = migrations.iter().find(|step| step.version == newest);
        if ours.is_some_and(|step| hash(step)[..] != found[..]) {
            let reason = "this program would have taken it in another way";
            return Err(StoreError::damaged(format!("migration {newest}"), reason));
        }
    }
    Ok(newest)
}

fn hash(step: &Migration) -> [u8; 32] {
    sha256(&[step.sql.as_bytes()])
}

#[cfg(test)]
mod tests;
