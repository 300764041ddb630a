//! The static keys of live enrolments: no two have the same, in no enclave of no tenant.

use coterie_model::{EnclaveId, MemberId};

use crate::session::Constraint;
use crate::{Read, StoreError, Write};

impl Read {
    /// The static key of an enrolment.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn static_key(&mut self, enclave: EnclaveId, member: MemberId) -> Result<Option<[u8; 32]>, StoreError> {
        let query = sqlx::query("SELECT static_key FROM static_keys WHERE enclave_id = $1 AND member_id = $2")
            .bind(&enclave.0[..])
            .bind(&member.0[..]);
        let row = self.optional("reading a static key", query).await?;
        row.map(|row| row.array("static_key")).transpose()
    }

    /// The enrolment of the enclave that has this static key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn member_of_static_key(
        &mut self,
        enclave: EnclaveId,
        static_key: &[u8; 32],
    ) -> Result<Option<MemberId>, StoreError> {
        let query = sqlx::query("SELECT member_id FROM static_keys WHERE enclave_id = $1 AND static_key = $2")
            .bind(&enclave.0[..])
            .bind(&static_key[..]);
        let row = self.optional("reading a static key", query).await?;
        row.map(|row| row.array("member_id").map(MemberId)).transpose()
    }
}

impl Write {
    /// Claims a static key for an enrolment.
    ///
    /// # Errors
    /// [`StoreError::StaticKeyTaken`] when any live enrolment has it, or this one has another; [`StoreError::NotFound`]
    /// when there is no such enclave.
    pub async fn claim_static_key(
        &mut self,
        enclave: EnclaveId,
        member: MemberId,
        static_key: &[u8; 32],
    ) -> Result<(), StoreError> {
        let query = sqlx::query("INSERT INTO static_keys (static_key, enclave_id, member_id) VALUES ($1, $2, $3)")
            .bind(&static_key[..])
            .bind(&enclave.0[..])
            .bind(&member.0[..]);
        let refused = |constraint| match constraint {
            Constraint::Unique => StoreError::StaticKeyTaken,
            Constraint::Reference => StoreError::NotFound { what: "enclave" },
        };
        self.execute_or("claiming a static key", query, refused).await?;
        Ok(())
    }

    /// Gives up the static key of an enrolment that ended; false when it had none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release_static_key(&mut self, enclave: EnclaveId, member: MemberId) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM static_keys WHERE enclave_id = $1 AND member_id = $2")
            .bind(&enclave.0[..])
            .bind(&member.0[..]);
        Ok(self.execute("releasing a static key", query).await? > 0)
    }
}
