//! Tickets by which a machine comes back after a reboot. Each is good for one use, which replaces it; the one before
//! is on the disk of whoever was copied from this machine, or is this machine set back: a clone either way.

use coterie_crypto::hash::sha256;
use coterie_crypto::{Secret, same_bytes};
use coterie_model::{EnclaveId, MemberId, UnixTime};

use crate::id::TokenId;
use crate::row::stored_time;
use crate::session::Constraint;
use crate::{Read, StoreError, Write};

/// What came of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketUse {
    /// It was the current one, and the next is by now.
    Replaced,
    /// It was replaced before: there are two machines, or one was set back. The ticket stays as it was.
    Clone {
        /// When the other one was there.
        replaced_at: UnixTime,
    },
    /// It is no ticket of this member.
    Unknown,
}

impl Read {
    /// The members that have a ticket, each with the token that it is presented with.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ticket_holders(&mut self, enclave: EnclaveId) -> Result<Vec<(MemberId, Option<TokenId>)>, StoreError> {
        let query = sqlx::query("SELECT member_id, token_id FROM tickets WHERE enclave_id = $1 ORDER BY member_id")
            .bind(&enclave.0[..]);
        let rows = self.all("reading who has a ticket", query).await?;
        rows.iter()
            .map(|row| {
                let token = row.array_or_none("token_id")?.map(TokenId);
                Ok((MemberId(row.array("member_id")?), token))
            })
            .collect()
    }
}

impl Write {
    /// Gives a member its first ticket, or one in place of all that it had. Only its hash is kept. `token` is the one that it
    /// is presented with: it lives, spent and expired as it may be, as long as the ticket does.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave, or it has no such token.
    pub async fn put_ticket(
        &mut self,
        enclave: EnclaveId,
        member: MemberId,
        token: Option<TokenId>,
        ticket: &Secret<32>,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO tickets (enclave_id, member_id, current_hash, previous_hash, replaced_at, token_id) \
             VALUES ($1, $2, $3, NULL, $4, $5) ON CONFLICT (enclave_id, member_id) DO UPDATE SET \
             current_hash = excluded.current_hash, previous_hash = NULL, replaced_at = excluded.replaced_at, \
             token_id = excluded.token_id",
        )
        .bind(&enclave.0[..])
        .bind(&member.0[..])
        .bind(sha256(&[ticket.expose()]).to_vec())
        .bind(stored_time(now)?)
        .bind(token.map(|token| token.0.to_vec()));
        let refused = |_reference: Constraint| StoreError::NotFound {
            what: "enclave or token",
        };
        self.execute_or("giving a ticket", query, refused).await?;
        Ok(())
    }

    /// Uses the ticket that was `presented`, and makes `next` the current one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn use_ticket(
        &mut self,
        enclave: EnclaveId,
        member: MemberId,
        presented: &Secret<32>,
        next: &Secret<32>,
        now: UnixTime,
    ) -> Result<TicketUse, StoreError> {
        const DOING: &str = "using a ticket";
        let hash = sha256(&[presented.expose()]);
        // One statement decides, so that of two who present it at once one is told that it was replaced.
        let query = sqlx::query(
            "UPDATE tickets SET previous_hash = current_hash, current_hash = $1, replaced_at = $2 \
             WHERE enclave_id = $3 AND member_id = $4 AND current_hash = $5",
        )
        .bind(sha256(&[next.expose()]).to_vec())
        .bind(stored_time(now)?)
        .bind(&enclave.0[..])
        .bind(&member.0[..])
        .bind(&hash[..]);
        if self.execute(DOING, query).await? > 0 {
            return Ok(TicketUse::Replaced);
        }
        let query =
            sqlx::query("SELECT previous_hash, replaced_at FROM tickets WHERE enclave_id = $1 AND member_id = $2")
                .bind(&enclave.0[..])
                .bind(&member.0[..]);
        let Some(row) = self.read().optional(DOING, query).await? else {
            return Ok(TicketUse::Unknown);
        };
        let previous: Option<[u8; 32]> = row.array_or_none("previous_hash")?;
        if previous.is_some_and(|previous| same_bytes(&previous, &hash)) {
            let replaced_at = row.time("replaced_at")?;
            return Ok(TicketUse::Clone { replaced_at });
        }
        Ok(TicketUse::Unknown)
    }

    /// Takes a member's tickets; false when it had none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_ticket(&mut self, enclave: EnclaveId, member: MemberId) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM tickets WHERE enclave_id = $1 AND member_id = $2")
            .bind(&enclave.0[..])
            .bind(&member.0[..]);
        Ok(self.execute("removing a ticket", query).await? > 0)
    }
}
