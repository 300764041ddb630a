//! Join tokens.

use core::time::Duration;

use coterie_control::{
    enrol::{DoorAddress, MAX_DOORS, Token},
    follow::Knocking,
};
use coterie_model::{Name, Prefix, UnixTime};
use coterie_store::{NewToken, PresentedToken, Store, StoreError, TokenId};
use serde_json::json;

use super::{Outcome, State, deed::Hand, state::Failed};
use crate::{entropy::SystemEntropy, refusal::Refusal};

/// For how long a door that hears nothing new lets machines with a ticket in.
const RETURNING: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a token is to be.
#[derive(Debug, Clone)]
pub(crate) struct TokenWanted {
    /// The template of the members that it makes.
    pub(crate) template: Name,
    /// The one member that it makes, where it is bound to a name.
    pub(crate) member: Option<Name>,
    /// How many it makes.
    pub(crate) uses: u32,
    /// For how long it is good.
    pub(crate) life: Duration,
    /// Where it can be used from.
    pub(crate) source: Option<Prefix>,
    /// How long a member stays after it was last seen; `None`: until it is ended.
    pub(crate) ephemeral: Option<Duration>,
}

impl State {
    pub(super) async fn create_token(&mut self, wanted: &TokenWanted, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        let file = self.enclave.file();
        if !file.templates.contains_key(&wanted.template) {
            return Err(Refusal::UnknownTemplate(wanted.template.clone()).into());
        }
        if let Some((name, seat)) = wanted
            .member
            .as_ref()
            .and_then(|name| Some((name, self.enclave.seat(name)?)))
            && seat.template != wanted.template
        {
            return Err(Refusal::OtherTemplate(name.clone(), seat.template.clone()).into());
        }
        let doors = self.doors();
        let servers = self.enclave.servers().to_vec();
        if doors.is_empty() && servers.is_empty() {
            return Err(Refusal::NoWayIn.into());
        }
        let not_after = hand.now.plus(wanted.life);
        let new = NewToken {
            template: &wanted.template,
            member: wanted.member.as_ref(),
            uses: wanted.uses,
            not_after,
            source: wanted.source,
            time_to_live: wanted.ephemeral,
            made_by: hand.actor,
        };
        let id = self.enclave.id();
        let (token, secret) = hand.w.create_token(id, &new, hand.now, &mut SystemEntropy).await?;
        self.knocking = None;
        let detail = json!({
            "template": wanted.template.as_str(),
            "member": wanted.member.as_ref().map(Name::as_str),
            "uses": wanted.uses,
            "seconds": wanted.life.as_secs(),
            "ephemeral": wanted.ephemeral.map(|d| d.as_secs()),
            "from": wanted.source.map(|p| format!("{}/{}", p.addr(), p.len())),
        });
        hand.audit(self.tenant, ("token.create", &self.object(&token.to_string())), detail)
            .await?;
        let text = Token::from_parts(
            token.0,
            secret,
            (self.enclave.id(), self.enclave.root_hash()),
            *self.server_key.public(),
            not_after,
            doors,
            servers,
        )
        .to_text();
        Ok(Outcome::Token(token, text))
    }

    pub(super) async fn revoke_token(&mut self, id: TokenId, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        hand.w.revoke_token(self.enclave.id(), id, hand.now).await?;
        self.knocking = None;
        hand.audit(self.tenant, ("token.revoke", &self.object(&id.to_string())), json!({}))
            .await?;
        Ok(Outcome::Done(0))
    }

    /// Where machines with a token may call.
    pub(crate) fn doors(&self) -> Vec<DoorAddress> {
        self.enclave
            .doors()
            .into_iter()
            .map(|(_, door)| door)
            .take(MAX_DOORS)
            .collect()
    }

    /// What visitors may knock with at the door of a static key.
    pub(super) async fn knocks(
        &mut self,
        store: &Store,
        static_key: &[u8; 32],
        now: UnixTime,
    ) -> Result<Vec<Knocking>, StoreError> {
        let tokens = match self.knocking.take() {
            Some(tokens) => tokens,
            None => {
                let mut read = store.read().await?;
                let live = read.live_tokens(self.enclave.id(), now).await?;
                live.into_iter().map(|token| self.knocked(token, now)).collect()
            }
        };
        let knocks = tokens
            .iter()
            .map(|token| Knocking {
                key: token.knock_key(static_key),
                not_after: token.not_after,
            })
            .collect();
        self.knocking = Some(tokens);
        Ok(knocks)
    }

    /// Whether one of the tokens that doors know has ended since: then other ones open them, or it opens them to others.
    pub(super) fn knocks_ended(&self, now: UnixTime) -> bool {
        let known = self.knocking.as_deref().unwrap_or_default();
        known.iter().any(|token| token.not_after < now)
    }

    /// A token as doors know it: one that ended still opens them to who comes back with a ticket.
    fn knocked(&self, PresentedToken { token, secret, .. }: PresentedToken, now: UnixTime) -> Token {
        let not_after = if token.not_after < now {
            now.plus(RETURNING)
        } else {
            token.not_after
        };
        Token::from_parts(
            token.id.0,
            secret,
            (self.enclave.id(), self.enclave.root_hash()),
            *self.server_key.public(),
            not_after,
            self.doors(),
            self.enclave.servers().to_vec(),
        )
    }

    /// A thing of the enclave, for the audit log.
    pub(super) fn object(&self, thing: &str) -> String {
        format!("{}/{thing}", self.enclave.name())
    }
}
