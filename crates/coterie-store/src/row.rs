//! Rows of the database as values: what does not fit its type is damage, not a panic.

use core::time::Duration;
use std::collections::BTreeSet;

use coterie_model::{Name, UnixTime};
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Row as _};

use crate::StoreError;

/// A row that was read.
pub(crate) struct Row(pub(crate) SqliteRow);

impl Row {
    pub(crate) fn bytes(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        self.get(column)
    }

    pub(crate) fn array<const N: usize>(&self, column: &'static str) -> Result<[u8; N], StoreError> {
        let bytes: Vec<u8> = self.get(column)?;
        let len = bytes.len();
        bytes
            .try_into()
            .map_err(|_bytes| damaged(column, format!("{len} bytes instead of {N}")))
    }

    pub(crate) fn array_or_none<const N: usize>(&self, column: &'static str) -> Result<Option<[u8; N]>, StoreError> {
        let bytes: Option<Vec<u8>> = self.get(column)?;
        bytes.map(|_some| self.array(column)).transpose()
    }

    pub(crate) fn number(&self, column: &'static str) -> Result<u64, StoreError> {
        let number: i64 = self.get(column)?;
        u64::try_from(number).map_err(|_negative| damaged(column, number.to_string()))
    }

    pub(crate) fn number_or_none(&self, column: &'static str) -> Result<Option<u64>, StoreError> {
        let number: Option<i64> = self.get(column)?;
        number
            .map(|n| u64::try_from(n).map_err(|_negative| damaged(column, n.to_string())))
            .transpose()
    }

    pub(crate) fn small(&self, column: &'static str) -> Result<u32, StoreError> {
        let number = self.number(column)?;
        u32::try_from(number).map_err(|_large| damaged(column, number.to_string()))
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.get(column)
    }

    pub(crate) fn text_or_none(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        self.get(column)
    }

    pub(crate) fn name(&self, column: &'static str) -> Result<Name, StoreError> {
        name(column, &self.text(column)?)
    }

    pub(crate) fn name_or_none(&self, column: &'static str) -> Result<Option<Name>, StoreError> {
        self.text_or_none(column)?.map(|text| name(column, &text)).transpose()
    }

    /// Names with a space between two.
    pub(crate) fn names(&self, column: &'static str) -> Result<BTreeSet<Name>, StoreError> {
        let text = self.text(column)?;
        text.split_ascii_whitespace().map(|text| name(column, text)).collect()
    }

    pub(crate) fn time(&self, column: &'static str) -> Result<UnixTime, StoreError> {
        self.number(column).map(UnixTime)
    }

    pub(crate) fn time_or_none(&self, column: &'static str) -> Result<Option<UnixTime>, StoreError> {
        Ok(self.number_or_none(column)?.map(UnixTime))
    }

    pub(crate) fn seconds(&self, column: &'static str) -> Result<Duration, StoreError> {
        self.number(column).map(Duration::from_secs)
    }

    pub(crate) fn seconds_or_none(&self, column: &'static str) -> Result<Option<Duration>, StoreError> {
        Ok(self.number_or_none(column)?.map(Duration::from_secs))
    }

    fn get<'r, T>(&'r self, column: &'static str) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, crate::sqlite::Backend> + sqlx::Type<crate::sqlite::Backend>,
        &'static str: ColumnIndex<SqliteRow>,
    {
        self.0
            .try_get(column)
            .map_err(|error| damaged(column, error.to_string()))
    }
}

fn name(column: &'static str, text: &str) -> Result<Name, StoreError> {
    Name::new(text).map_err(|error| damaged(column, error.to_string()))
}

/// A value of a column that cannot be what was written.
pub(crate) fn damaged(column: &'static str, reason: impl Into<String>) -> StoreError {
    StoreError::damaged(format!("column {column} of a row"), reason)
}

/// A number as tables hold it.
pub(crate) fn stored(what: &'static str, number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_large| StoreError::OutOfRange { what })
}

/// A time as tables hold it.
pub(crate) fn stored_time(time: UnixTime) -> Result<i64, StoreError> {
    stored("a time", time.0)
}
