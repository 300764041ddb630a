//! The state of an enclave's issuer, in parts: kind and key say which part, the bytes are the issuer's own.

use coterie_crypto::Entropy;
use coterie_model::EnclaveId;
use zeroize::Zeroizing;

use crate::row::Row;
use crate::seal::Place;
use crate::session::Constraint;
use crate::{Read, StoreError, Write};

/// A part, as it is read.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its kind.
    pub kind: String,
    /// Which of its kind; empty where there is one.
    pub key: String,
    /// Whether it was sealed.
    pub secret: bool,
    /// Its bytes.
    pub value: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for Record {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Record({} {:?}, {} bytes)", self.kind, self.key, self.value.len())
    }
}

/// The bytes of a part, as they are written.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// Whoever can read the database may know them.
    Clear(&'a [u8]),
    /// To be sealed.
    Secret(&'a [u8]),
}

impl core::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Clear(bytes) => write!(f, "Clear({} bytes)", bytes.len()),
            Self::Secret(bytes) => write!(f, "Secret({} bytes)", bytes.len()),
        }
    }
}

const READING: &str = "reading records";

impl Read {
    /// One part.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it is sealed and does not open.
    pub async fn record(&mut self, enclave: EnclaveId, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        let query = sqlx::query(
            "SELECT kind, key, secret, value FROM records WHERE enclave_id = $1 AND kind = $2 AND key = $3",
        )
        .bind(&enclave.0[..])
        .bind(kind)
        .bind(key);
        let rows = self.all(READING, query).await?;
        Ok(self.opened(enclave, &rows).await?.pop())
    }

    /// All parts, by kind and key.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when one is sealed and does not open.
    pub async fn records(&mut self, enclave: EnclaveId) -> Result<Vec<Record>, StoreError> {
        let query =
            sqlx::query("SELECT kind, key, secret, value FROM records WHERE enclave_id = $1 ORDER BY kind, key")
                .bind(&enclave.0[..]);
        let rows = self.all(READING, query).await?;
        self.opened(enclave, &rows).await
    }

    async fn opened(&mut self, enclave: EnclaveId, rows: &[Row]) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let (kind, key) = (row.text("kind")?, row.text("key")?);
            let (secret, value) = (row.number("secret")? == 1, row.bytes("value")?);
            let value = if secret {
                let tenant_key = self.key_of_enclave(enclave).await?;
                let opened = tenant_key.open(&place(&[&enclave.0, kind.as_bytes(), key.as_bytes()]), &value);
                let what = || format!("record {kind} {key:?} of enclave {enclave}");
                opened.map_err(|_refused| StoreError::damaged(what(), "it does not open"))?
            } else {
                Zeroizing::new(value)
            };
            records.push(Record {
                kind,
                key,
                secret,
                value,
            });
        }
        Ok(records)
    }
}

impl Write {
    /// Writes a part, or replaces it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave.
    pub async fn put_record(
        &mut self,
        enclave: EnclaveId,
        kind: &str,
        key: &str,
        value: Value<'_>,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<(), StoreError> {
        let (secret, bytes) = match value {
            Value::Clear(bytes) => (0_i64, bytes.to_vec()),
            Value::Secret(bytes) => {
                let tenant_key = self.read().key_of_enclave(enclave).await?;
                let row: &[&[u8]] = &[&enclave.0, kind.as_bytes(), key.as_bytes()];
                (1, tenant_key.seal(&place(row), bytes, entropy))
            }
        };
        let query = sqlx::query(
            "INSERT INTO records (enclave_id, kind, key, secret, value) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (enclave_id, kind, key) DO UPDATE SET secret = excluded.secret, value = excluded.value",
        )
        .bind(&enclave.0[..])
        .bind(kind)
        .bind(key)
        .bind(secret)
        .bind(bytes);
        let refused = |_reference: Constraint| StoreError::NotFound { what: "enclave" };
        self.execute_or("writing a record", query, refused).await?;
        Ok(())
    }

    /// Removes a part; false when there was none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_record(&mut self, enclave: EnclaveId, kind: &str, key: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM records WHERE enclave_id = $1 AND kind = $2 AND key = $3")
            .bind(&enclave.0[..])
            .bind(kind)
            .bind(key);
        Ok(self.execute("removing a record", query).await? > 0)
    }
}

fn place<'a>(row: &'a [&'a [u8]]) -> Place<'a> {
    Place {
        table: "records",
        column: "value",
        row,
    }
}
