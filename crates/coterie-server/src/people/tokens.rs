//! Join tokens.

use std::net::IpAddr;
use std::time::Duration;

use axum::{Json, response::IntoResponse as _};
use coterie_api::v1::{List, NewToken, SecretText, Token, TokenMade, TokenUse};
use coterie_control::enrol;
use coterie_model::Prefix;
use coterie_store::{TokenId, TokenUseRecord};
use http::StatusCode;
use ipnet::IpNet;

use super::{
    answer::Answer,
    ask::{self, Call},
};
use crate::{
    keeper::{Act, Outcome, TokenWanted},
    refusal::Refusal,
};

/// The most members that one token makes.
const MAX_USES: u32 = 1_000_000;
/// The longest time for which a token can be used, and for which an ephemeral member stays unseen: a year.
const MAX_TTL: u64 = 365 * 24 * 3600;

/// `GET /v1/enclaves/{e}/tokens`
pub(super) async fn list(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let tokens = call.server.store.read().await?.tokens(keeper.enclave).await?;
    let items = tokens.into_iter().map(|token| told(token, Vec::new())).collect();
    Ok(Json(List { items }).into_response())
}

/// `GET /v1/enclaves/{e}/tokens/{k}`
pub(super) async fn one(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let id = TokenId(call.id("k", "token")?);
    let mut read = call.server.store.read().await?;
    let token = read
        .token(keeper.enclave, id)
        .await?
        .ok_or(Refusal::NotFound("token"))?;
    let uses = read.token_uses(keeper.enclave, id).await?;
    Ok(Json(told(token, uses)).into_response())
}

/// `POST /v1/enclaves/{e}/tokens`
pub(super) async fn create(call: Call, ask::Json(new): ask::Json<NewToken>) -> Answer {
    let keeper = call.keeper().await?;
    let wanted = wanted(new)?;
    let Outcome::Token(id, text) = call.act(&keeper, Act::CreateToken(wanted)).await? else {
        return Err(Refusal::Gone.into());
    };
    let token = enrol::Token::parse(&text).map_err(|error| Refusal::Store(format!("the token {id}: {error}")))?;
    let made = TokenMade {
        id: id.to_string(),
        text: SecretText::new(text.to_string()),
        not_after: token.not_after.0,
        doors: token.doors.iter().map(|door| door.endpoint).collect(),
        servers: token.servers.clone(),
    };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// `DELETE /v1/enclaves/{e}/tokens/{k}`: nobody can use it any more.
pub(super) async fn revoke(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let id = TokenId(call.id("k", "token")?);
    call.act(&keeper, Act::RevokeToken(id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What is asked for, where it makes sense.
fn wanted(new: NewToken) -> Result<TokenWanted, Refusal> {
    let refuse = |words: String| Err(Refusal::BadRequest(words));
    if !(1..=MAX_USES).contains(&new.uses) {
        return refuse(format!("uses is 1 to {MAX_USES}, not {}", new.uses));
    }
    if new.member.is_some() && new.uses != 1 {
        return refuse(format!("a token for one member has 1 use, not {}", new.uses));
    }
    if !(1..=MAX_TTL).contains(&new.ttl_seconds) {
        return refuse(format!("ttl_seconds is 1 to {MAX_TTL}, not {}", new.ttl_seconds));
    }
    if let Some(seconds) = new.ephemeral_seconds.filter(|seconds| !(1..=MAX_TTL).contains(seconds)) {
        return refuse(format!("ephemeral_seconds is 1 to {MAX_TTL}, not {seconds}"));
    }
    Ok(TokenWanted {
        template: new.template,
        member: new.member,
        uses: new.uses,
        life: Duration::from_secs(new.ttl_seconds),
        source: new.from.as_deref().map(network).transpose()?,
        ephemeral: new.ephemeral_seconds.map(Duration::from_secs),
    })
}

/// A network in CIDR notation, or one address.
fn network(text: &str) -> Result<Prefix, Refusal> {
    let refuse = |words: String| Refusal::BadRequest(format!("from: {words}"));
    if let Ok(address) = text.parse::<IpAddr>() {
        let host = Prefix::host(address);
        return host.ok_or_else(|| {
            refuse(format!(
                "{address} is an IPv4 address; write {}",
                address.to_canonical()
            ))
        });
    }
    let net: IpNet = text.parse().map_err(|_unparsed| {
        refuse(format!(
            "{text:?} is no network; write it as 192.0.2.0/24 or 2001:db8::/32"
        ))
    })?;
    if net.trunc() != net {
        return Err(refuse(format!("{net} has bits of a host; write {}", net.trunc())));
    }
    Prefix::new(net.addr(), net.prefix_len())
        .ok_or_else(|| refuse(format!("{net} is a network of IPv4 addresses; write it as one")))
}

fn told(token: coterie_store::Token, uses: Vec<TokenUseRecord>) -> Token {
    Token {
        id: token.id.to_string(),
        template: token.template,
        member: token.member,
        uses_allowed: token.uses_allowed,
        uses_made: token.uses_made,
        not_after: token.not_after.0,
        from: token.source.map(|net| format!("{}/{}", net.addr(), net.len())),
        ephemeral_seconds: token.time_to_live.map(|life| life.as_secs()),
        made_by: token.made_by,
        created: token.created.0,
        revoked: token.revoked.map(|time| time.0),
        uses: uses.into_iter().map(told_use).collect(),
    }
}

fn told_use(record: TokenUseRecord) -> TokenUse {
    TokenUse {
        member: record.ended.is_none().then_some(record.name),
        member_id: record.member.to_string(),
        time: record.time.0,
        source: record.source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> coterie_model::Name {
        coterie_model::Name::new(text).unwrap()
    }

    fn new(change: impl FnOnce(&mut NewToken)) -> Result<TokenWanted, Refusal> {
        let mut new = NewToken {
            template: name("web"),
            member: None,
            uses: 1,
            ttl_seconds: 3600,
            ephemeral_seconds: None,
            from: None,
        };
        change(&mut new);
        wanted(new)
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        assert!(new(|_| {}).is_ok());
        assert!(new(|t| t.uses = MAX_USES).is_ok() && new(|t| t.ephemeral_seconds = Some(1)).is_ok());
        for (change, words) in [
            ((|t| t.uses = 0) as fn(&mut NewToken), "uses is 1 to 1000000, not 0"),
            (|t| t.uses = MAX_USES + 1, "not 1000001"),
            (|t| t.ttl_seconds = 0, "ttl_seconds is 1 to 31536000, not 0"),
            (|t| t.ttl_seconds = u64::MAX, "ttl_seconds"),
            (|t| t.ephemeral_seconds = Some(0), "ephemeral_seconds is 1"),
            (|t| t.from = Some("10.0.0.1/8".into()), "write 10.0.0.0/8"),
            (|t| t.from = Some("10.0.0.0/33".into()), "no network"),
            (|t| t.from = Some("::ffff:10.0.0.1".into()), "write 10.0.0.1"),
            (|t| t.from = Some("::ffff:10.0.0.0/104".into()), "IPv4"),
            (|t| t.from = Some(String::new()), "no network"),
            (|t| (t.uses, t.member) = (2, Some(name("a"))), "has 1 use, not 2"),
        ] {
            let refusal = new(change).unwrap_err().to_string();
            assert!(refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn a_network_is_taken_as_it_is_written() {
        let source = |text: &str| network(text).unwrap();
        assert_eq!(
            (source("10.0.0.0/8").addr(), source("10.0.0.0/8").len()),
            ("10.0.0.0".parse().unwrap(), 8)
        );
        assert_eq!(source("192.0.2.7").len(), 32);
        assert_eq!(source("2001:db8::/32").len(), 32);
        assert_eq!(source("::/0").len(), 0);
    }
}
