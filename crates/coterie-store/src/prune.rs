//! What is forgotten in time, so that a database does not grow by what comes and goes.

use coterie_model::{EnclaveId, UnixTime};

use crate::row::stored_time;
use crate::{StoreError, Write};

impl Write {
    /// Forgets the enclave's tokens that ended before a time, by their own time or because they were revoked, and whom they made;
    /// gives how many. One stays as long as a member that it made is not gone since before then, or holds a ticket.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune_tokens(&mut self, enclave: EnclaveId, before: UnixTime) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "DELETE FROM tokens WHERE enclave_id = $1 AND (not_after < $2 OR revoked_at < $2) AND NOT EXISTS \
             (SELECT 1 FROM token_uses u WHERE u.enclave_id = tokens.enclave_id AND u.token_id = tokens.id \
             AND (u.ended IS NULL OR u.ended >= $2)) AND NOT EXISTS \
             (SELECT 1 FROM tickets k WHERE k.enclave_id = tokens.enclave_id AND k.token_id = tokens.id)",
        )
        .bind(&enclave.0[..])
        .bind(stored_time(before)?);
        self.execute("pruning tokens", query).await
    }
}
