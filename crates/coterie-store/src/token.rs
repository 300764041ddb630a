//! Join tokens: each makes so many members and no more, until then, from there.

use core::net::IpAddr;
use core::time::Duration;

use coterie_crypto::{Entropy, Secret};
use coterie_model::{EnclaveId, MemberId, Name, Prefix, UnixTime};

use crate::enclave::one;
use crate::id::{TenantId, TokenId};
use crate::row::{Row, damaged, stored, stored_time};
use crate::seal::{Place, TenantKey};
use crate::session::Constraint;
use crate::{Read, StoreError, Write};

/// What a token is to be.
#[derive(Debug, Clone, Copy)]
pub struct NewToken<'a> {
    /// The template of the members that it makes.
    pub template: &'a Name,
    /// The name of the member that it makes; `None`: any.
    pub member: Option<&'a Name>,
    /// How many it makes: 1 or more.
    pub uses: u32,
    /// The last second in which it can be used.
    pub not_after: UnixTime,
    /// Where it can be used from; `None`: from anywhere.
    pub source: Option<Prefix>,
    /// How long an ephemeral member stays after it was last seen; `None`: its members are not ephemeral.
    pub time_to_live: Option<Duration>,
    /// Who makes it.
    pub made_by: &'a str,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// The enclave that its members join.
    pub enclave: EnclaveId,
    /// Their template.
    pub template: Name,
    /// The name of the member that it makes; `None`: any.
    pub member: Option<Name>,
    /// How many it makes.
    pub uses_allowed: u32,
    /// How many it made.
    pub uses_made: u32,
    /// The last second in which it can be used.
    pub not_after: UnixTime,
    /// Where it can be used from; `None`: from anywhere.
    pub source: Option<Prefix>,
    /// How long an ephemeral member stays after it was last seen; `None`: its members are not ephemeral.
    pub time_to_live: Option<Duration>,
    /// Who made it.
    pub made_by: String,
    /// When.
    pub created: UnixTime,
    /// Since when it is revoked.
    pub revoked: Option<UnixTime>,
}

/// A token that somebody knocks with, of whichever tenant.
#[derive(Debug)]
pub struct PresentedToken {
    /// The tenant of its enclave.
    pub tenant: TenantId,
    /// The token.
    pub token: Token,
    /// Its 32 bytes, by which the one who knocks is to prove that it holds it.
    pub secret: Secret<32>,
}

/// What came of an attempt to use a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUse {
    /// The use counts, with the commit.
    Used(Token),
    /// It does not.
    Refused(TokenRefusal),
}

/// Why a token cannot be used: for the administrator; on the wire all are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// There is no such token.
    #[error("there is no such token")]
    Unknown,
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// Its time is over.
    #[error("the token expired")]
    Expired,
    /// It is for use from elsewhere.
    #[error("the token is not for use from this address")]
    WrongSource,
    /// It is for a member of another name.
    #[error("the token is for a member of another name")]
    WrongMember,
    /// It made as many members as it may.
    #[error("the token is used up")]
    Spent,
}

/// A use of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUseRecord {
    /// The member that it made: its newest enrolment ([`Write::renew_use`]).
    pub member: MemberId,
    /// The member's name.
    pub name: Name,
    /// When.
    pub time: UnixTime,
    /// From where.
    pub source: IpAddr,
    /// When the member was gone for good; `None`: it is not.
    pub ended: Option<UnixTime>,
}

const READING: &str = "reading tokens";
/// The most tokens that a door of an enclave knows.
const LIVE_TOKENS: u32 = 1_024;

/// That a token can be used: $1 is its id, $2 the time, $3 where from, $4 the member's name.
macro_rules! usable {
    () => {
        "id = $1 AND uses_made < uses_allowed AND revoked_at IS NULL AND not_after >= $2 \
         AND (source_first IS NULL OR (source_first <= $3 AND source_last >= $3)) AND (member IS NULL OR member = $4)"
    };
}

impl Read {
    /// The token of this id, if it is for the enclave.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token(&mut self, enclave: EnclaveId, id: TokenId) -> Result<Option<Token>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens WHERE enclave_id = $1 AND id = $2")
            .bind(&enclave.0[..])
            .bind(&id.0[..]);
        self.optional(READING, query).await?.map(|row| token(&row)).transpose()
    }

    /// All tokens for the enclave, the oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tokens(&mut self, enclave: EnclaveId) -> Result<Vec<Token>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens WHERE enclave_id = $1 ORDER BY created, id").bind(&enclave.0[..]);
        self.all(READING, query).await?.iter().map(token).collect()
    }

    /// Who was made by a token, the first first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_uses(&mut self, enclave: EnclaveId, id: TokenId) -> Result<Vec<TokenUseRecord>, StoreError> {
        let query =
            sqlx::query("SELECT * FROM token_uses WHERE enclave_id = $1 AND token_id = $2 ORDER BY time, member_id")
                .bind(&enclave.0[..])
                .bind(&id.0[..]);
        let rows = self.all("reading uses of a token", query).await?;
        rows.iter().map(token_use).collect()
    }

    /// The token that made a member, whatever became of both.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_of_member(&mut self, enclave: EnclaveId, member: MemberId) -> Result<Option<Token>, StoreError> {
        let query = sqlx::query(
            "SELECT t.* FROM token_uses u JOIN tokens t ON t.enclave_id = u.enclave_id AND t.id = u.token_id \
             WHERE u.enclave_id = $1 AND u.member_id = $2",
        )
        .bind(&enclave.0[..])
        .bind(&member.0[..]);
        self.optional(READING, query).await?.map(|row| token(&row)).transpose()
    }

    /// The ephemeral members that are not gone for good, each with how long it stays after it was last seen: those that a
    /// token with a time to live made.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ephemeral(&mut self, enclave: EnclaveId) -> Result<Vec<(MemberId, Duration)>, StoreError> {
        let query = sqlx::query(
            "SELECT u.member_id, t.time_to_live FROM token_uses u \
             JOIN tokens t ON t.enclave_id = u.enclave_id AND t.id = u.token_id \
             WHERE u.enclave_id = $1 AND u.ended IS NULL AND t.time_to_live IS NOT NULL ORDER BY u.member_id",
        )
        .bind(&enclave.0[..]);
        let rows = self.all("reading ephemeral members", query).await?;
        rows.iter()
            .map(|row| Ok((MemberId(row.array("member_id")?), row.seconds("time_to_live")?)))
            .collect()
    }

    /// When the last member of this name that a token made was gone for good; `None`: none was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_ended(&mut self, enclave: EnclaveId, name: &Name) -> Result<Option<UnixTime>, StoreError> {
        let query = sqlx::query(
            "SELECT ended FROM token_uses WHERE enclave_id = $1 AND name = $2 AND ended IS NOT NULL \
             ORDER BY ended DESC LIMIT 1",
        )
        .bind(&enclave.0[..])
        .bind(name.as_str());
        let row = self.optional("reading who is gone", query).await?;
        row.map(|row| row.time("ended")).transpose()
    }

    /// The tokens that one may knock with at the enclave's doors, at most 1,024: the newest of those that can make a member, then
    /// of those with which a member may come back that has a ticket, be their time over, then of those that are used up, so that
    /// who shows one is refused by the server, which tells of it. One that was revoked is not among them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave; [`StoreError::Damaged`] when a secret does not open.
    pub async fn live_tokens(&mut self, enclave: EnclaveId, now: UnixTime) -> Result<Vec<PresentedToken>, StoreError> {
        let key = self.key_of_enclave(enclave).await?;
        let query = sqlx::query(
            "SELECT * FROM (SELECT t.*, CASE WHEN uses_made < uses_allowed AND not_after >= $2 THEN 0 \
             WHEN EXISTS (SELECT 1 FROM tickets k WHERE k.enclave_id = t.enclave_id AND k.token_id = t.id) THEN 1 \
             WHEN not_after >= $2 THEN 2 END AS place FROM tokens t WHERE enclave_id = $1 AND revoked_at IS NULL) AS placed \
             WHERE place IS NOT NULL ORDER BY place, created DESC, id DESC LIMIT $3",
        )
        .bind(&enclave.0[..])
        .bind(stored_time(now)?)
        .bind(i64::from(LIVE_TOKENS));
        let rows = self.all(READING, query).await?;
        rows.iter().map(|row| presented(&key, row)).collect()
    }

    /// The token that somebody knocks with. The one read that asks for no tenant and no enclave, because the one who knocks
    /// has none yet: what it has to prove is that it knows the token's secret.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when its secret does not open.
    pub async fn presented_token(&mut self, id: TokenId) -> Result<Option<PresentedToken>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens WHERE id = $1").bind(&id.0[..]);
        let Some(row) = self.optional(READING, query).await? else {
            return Ok(None);
        };
        let key = self.key_of_enclave(EnclaveId(row.array("enclave_id")?)).await?;
        presented(&key, &row).map(Some)
    }
}

impl Write {
    /// Makes a token: id and secret are drawn. The secret can be had again by [`Read::presented_token`] alone.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave; [`StoreError::OutOfRange`] for no uses.
    pub async fn create_token(
        &mut self,
        enclave: EnclaveId,
        new: &NewToken<'_>,
        now: UnixTime,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<(TokenId, Secret<32>), StoreError> {
        if new.uses == 0 {
            return Err(StoreError::OutOfRange {
                what: "the number of uses",
            });
        }
        let (id, secret) = (TokenId::draw(entropy), Secret::draw(entropy));
        let key = self.read().key_of_enclave(enclave).await?;
        let sealed = key.seal(&place(&[&id.0]), secret.expose(), entropy);
        let time_to_live = new.time_to_live.map(|d| stored("the time to live", d.as_secs()));
        let query = sqlx::query(
            "INSERT INTO tokens (id, enclave_id, template, member, sealed_secret, uses_allowed, uses_made, not_after, \
             source, source_first, source_last, time_to_live, made_by, created, revoked_at) \
             VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, $10, $11, $12, $13, NULL)",
        )
        .bind(&id.0[..])
        .bind(&enclave.0[..])
        .bind(new.template.as_str())
        .bind(new.member.map(Name::as_str))
        .bind(sealed)
        .bind(i64::from(new.uses))
        .bind(stored_time(new.not_after)?)
        .bind(new.source.map(|p| format!("{}/{}", p.addr(), p.len())))
        .bind(new.source.map(|p| sortable(p.addr())))
        .bind(new.source.map(last))
        .bind(time_to_live.transpose()?)
        .bind(new.made_by)
        .bind(stored_time(now)?);
        self.execute("making a token", query).await?;
        Ok((id, secret))
    }

    /// Uses a token for one member, in the transaction that writes the member. Of any number of simultaneous users as many
    /// succeed as the token allows.
    ///
    /// # Errors
    /// When the database fails; [`StoreError::Exists`] when a token made this member before.
    pub async fn use_token(
        &mut self,
        id: TokenId,
        member: MemberId,
        name: &Name,
        source: IpAddr,
        now: UnixTime,
    ) -> Result<TokenUse, StoreError> {
        let source = source.to_canonical();
        // First the use, so that one that a table refuses does not count.
        let query = sqlx::query(concat!(
            "INSERT INTO token_uses (enclave_id, member_id, token_id, name, time, source, ended) \
             SELECT enclave_id, $5, id, $4, $2, $6, NULL FROM tokens WHERE ",
            usable!(),
            "; UPDATE tokens SET uses_made = uses_made + 1 WHERE ",
            usable!(),
            " RETURNING *"
        ))
        .bind(&id.0[..])
        .bind(stored_time(now)?)
        .bind(sortable(source))
        .bind(name.as_str())
        .bind(&member.0[..])
        .bind(source.to_string());
        let refused = |_unique: Constraint| StoreError::Exists {
            what: "member that a token made",
        };
        match self.returning_or("using a token", query, refused).await? {
            Some(row) => Ok(TokenUse::Used(token(&row)?)),
            None => Ok(TokenUse::Refused(self.refusal(id, name, source, now).await?)),
        }
    }

    /// Why the statement of [`Self::use_token`] changed nothing.
    async fn refusal(
        &mut self,
        id: TokenId,
        name: &Name,
        source: IpAddr,
        now: UnixTime,
    ) -> Result<TokenRefusal, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens WHERE id = $1").bind(&id.0[..]);
        let Some(row) = self.read().optional(READING, query).await? else {
            return Ok(TokenRefusal::Unknown);
        };
        let token = token(&row)?;
        Ok(if token.revoked.is_some() {
            TokenRefusal::Revoked
        } else if token.not_after < now {
            TokenRefusal::Expired
        } else if token.source.is_some_and(|prefix| !prefix.contains(source)) {
            TokenRefusal::WrongSource
        } else if token.member.is_some_and(|member| member != *name) {
            TokenRefusal::WrongMember
        } else {
            TokenRefusal::Spent
        })
    }

    /// Revokes a token: nobody can use it any more. Once is enough; the first time is kept.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the enclave has no such token.
    pub async fn revoke_token(&mut self, enclave: EnclaveId, id: TokenId, now: UnixTime) -> Result<(), StoreError> {
        let query =
            sqlx::query("UPDATE tokens SET revoked_at = coalesce(revoked_at, $1) WHERE enclave_id = $2 AND id = $3")
                .bind(stored_time(now)?)
                .bind(&enclave.0[..])
                .bind(&id.0[..]);
        one(self.execute("revoking a token", query).await?, "token")
    }

    /// A member that came back is enrolled anew, and goes on as the one that its token made: what counted as a use goes on
    /// counting once, and an ephemeral member stays one. False when no token made it, or it is gone for good.
    ///
    /// # Errors
    /// When the database fails; [`StoreError::Exists`] when a token made the new enrolment.
    pub async fn renew_use(
        &mut self,
        enclave: EnclaveId,
        before: MemberId,
        member: MemberId,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(
            "UPDATE token_uses SET member_id = $1 WHERE enclave_id = $2 AND member_id = $3 AND ended IS NULL",
        )
        .bind(&member.0[..])
        .bind(&enclave.0[..])
        .bind(&before.0[..]);
        let refused = |_unique: Constraint| StoreError::Exists {
            what: "member that a token made",
        };
        Ok(self.execute_or("enrolling a member anew", query, refused).await? > 0)
    }

    /// Notes that a member is gone for good: it is not ephemeral any more, and its token can be removed. That the token made
    /// it stays on record. The first time is kept; false when no token made it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_use(
        &mut self,
        enclave: EnclaveId,
        member: MemberId,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        let query =
            sqlx::query("UPDATE token_uses SET ended = coalesce(ended, $1) WHERE enclave_id = $2 AND member_id = $3")
                .bind(stored_time(now)?)
                .bind(&enclave.0[..])
                .bind(&member.0[..]);
        Ok(self.execute("noting the end of a member", query).await? > 0)
    }

    /// Forgets a token and whom it made. While one of them is not gone for good ([`Self::forget_use`]) or holds a ticket it
    /// can only be revoked: how long an ephemeral member stays is the token's to say.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the enclave has no such token; [`StoreError::NotEmpty`].
    pub async fn remove_token(&mut self, enclave: EnclaveId, id: TokenId) -> Result<(), StoreError> {
        let query = sqlx::query(
            "DELETE FROM tokens WHERE enclave_id = $1 AND id = $2 AND NOT EXISTS \
             (SELECT 1 FROM token_uses u WHERE u.enclave_id = $1 AND u.token_id = $2 AND u.ended IS NULL) \
             AND NOT EXISTS (SELECT 1 FROM tickets k WHERE k.enclave_id = $1 AND k.token_id = $2)",
        )
        .bind(&enclave.0[..])
        .bind(&id.0[..]);
        if self.execute("removing a token", query).await? > 0 {
            return Ok(());
        }
        match self.read().token(enclave, id).await? {
            Some(_) => Err(StoreError::NotEmpty {
                what: "token",
                of: "members that it made",
            }),
            None => Err(StoreError::NotFound { what: "token" }),
        }
    }
}

pub(crate) fn open_secret(key: &TenantKey, id: TokenId, row: &Row) -> Result<Secret<32>, StoreError> {
    let text = key.open(&place(&[&id.0]), &row.bytes("sealed_secret")?).ok();
    text.and_then(|text| Secret::from_slice(&text))
        .ok_or_else(|| StoreError::damaged(format!("the secret of token {id}"), "it does not open"))
}

fn presented(key: &TenantKey, row: &Row) -> Result<PresentedToken, StoreError> {
    let token = token(row)?;
    Ok(PresentedToken {
        tenant: key.tenant(),
        secret: open_secret(key, token.id, row)?,
        token,
    })
}

fn place<'a>(row: &'a [&'a [u8]]) -> Place<'a> {
    Place {
        table: "tokens",
        column: "sealed_secret",
        row,
    }
}

fn token(row: &Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: TokenId(row.array("id")?),
        enclave: EnclaveId(row.array("enclave_id")?),
        template: row.name("template")?,
        member: row.name_or_none("member")?,
        uses_allowed: row.small("uses_allowed")?,
        uses_made: row.small("uses_made")?,
        not_after: row.time("not_after")?,
        source: row
            .text_or_none("source")?
            .map(|text| prefix(&text).ok_or_else(|| damaged("source", text)))
            .transpose()?,
        time_to_live: row.seconds_or_none("time_to_live")?,
        made_by: row.text("made_by")?,
        created: row.time("created")?,
        revoked: row.time_or_none("revoked_at")?,
    })
}

fn token_use(row: &Row) -> Result<TokenUseRecord, StoreError> {
    let source = row.text("source")?;
    Ok(TokenUseRecord {
        member: MemberId(row.array("member_id")?),
        name: row.name("name")?,
        time: row.time("time")?,
        source: source.parse().map_err(|_unparsed| damaged("source", source))?,
        ended: row.time_or_none("ended")?,
    })
}

fn prefix(text: &str) -> Option<Prefix> {
    let (addr, len) = text.split_once('/')?;
    Prefix::new(addr.parse().ok()?, len.parse().ok()?)
}

/// Bytes in whose order the addresses of a prefix are a range, and those of the other family are none of it.
fn sortable(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => [&[4][..], &addr.octets()].concat(),
        IpAddr::V6(addr) => [&[6][..], &addr.octets()].concat(),
    }
}

/// The last address of a prefix.
fn last(prefix: Prefix) -> Vec<u8> {
    let mut bytes = sortable(prefix.addr());
    let len = usize::from(prefix.len());
    for (at, byte) in bytes.iter_mut().skip(1).enumerate() {
        let fixed = len.saturating_sub(8 * at).min(8);
        *byte |= 0xff_u8.checked_shr(u32::try_from(fixed).unwrap_or(8)).unwrap_or(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_prefix_enclose_what_it_contains_and_nothing_else() {
        let prefixes = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.0/23",
            "10.1.2.3/32",
            "::/0",
            "2001:db8::/33",
            "::1/128",
        ];
        let addresses = [
            "0.0.0.0",
            "9.255.255.255",
            "10.0.0.0",
            "10.1.1.255",
            "10.1.2.0",
            "10.1.2.3",
            "10.1.3.255",
            "10.1.4.0",
            "10.255.255.255",
            "11.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "2001:db7:ffff::",
            "2001:db8::",
            "2001:db8:7fff:ffff::",
            "2001:db8:8000::",
            "ffff::",
        ];
        for text in prefixes {
            let prefix = prefix(text).unwrap();
            for address in addresses {
                let address: IpAddr = address.parse().unwrap();
                let bytes = sortable(address);
                let inside = sortable(prefix.addr()) <= bytes && bytes <= last(prefix);
                assert_eq!(inside, prefix.contains(address), "{address} in {text}");
            }
        }
    }
}
