//! What the database says of itself.

use coterie_model::UnixTime;

use crate::id::{ServerId, Timeline};
use crate::{Read, StoreError, migrations};

/// What the database says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The database: of a restored backup, that of the original.
    pub server: ServerId,
    /// Its history: new after each restore.
    pub timeline: Timeline,
    /// When it was made.
    pub created: UnixTime,
    /// How often it was opened for writing.
    pub started: u64,
    /// How often it was restored. With the timeline it tells an old backup from what was there before.
    pub restored: u64,
    /// Its schema.
    pub schema: u32,
}

impl Read {
    /// What the database says of itself.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settings(&mut self) -> Result<Settings, StoreError> {
        const DOING: &str = "reading the settings";
        let query = sqlx::query("SELECT timeline, created, started, restored FROM settings");
        let row = self.optional(DOING, query).await?;
        let row = row.ok_or(StoreError::NotFound {
            what: "row of settings",
        })?;
        Ok(Settings {
            server: self.server(),
            timeline: Timeline(row.array("timeline")?),
            created: row.time("created")?,
            started: row.number("started")?,
            restored: row.number("restored")?,
            schema: migrations::newest(),
        })
    }
}
