//! Enrolment: a machine with a token becomes a member (`docs/BUNDLE.md` section 9). Check of the token and making of the member
//! are one transaction.

use std::net::SocketAddr;
use std::time::Duration;

use coterie_control::{
    enrol::{Opened, Reply, Ticket},
    file::Return,
    issue::Admission,
};
use coterie_crypto::{Entropy as _, Secret};
use coterie_model::{MemberId, Name};
use coterie_store::{TicketUse, Token, TokenId, TokenRefusal, TokenUse};
use serde_json::json;

use super::{Outcome, State, deed::Hand, state::Failed};
use crate::{entropy::SystemEntropy, refusal::Refusal, tasks};

/// Who does not follow for so long has given its name up to who comes with another token.
const NAME_RESTS: Duration = Duration::from_secs(10);

/// Where an application came from.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    /// The machine: a canonical address.
    pub(crate) source: SocketAddr,
    /// The door that let it in; `None`: it came directly.
    pub(crate) door: Option<Name>,
    /// The token that it named.
    pub(crate) token: TokenId,
}

/// A machine that applies, whose application was opened with its token.
#[derive(Debug)]
pub(crate) struct Applicant {
    /// What it asks.
    pub(crate) opened: Opened,
    /// Where it came from.
    pub(crate) entrance: Entrance,
    /// When its name's holder was seen last: `None` while it follows.
    pub(crate) holder_away: Option<Duration>,
}

/// By what a machine is let in.
enum Right {
    /// A use of its token, made now.
    Token(Token),
    /// A use of its token that was made before: its reply was lost.
    Again(Token),
    /// A ticket, and the one that replaces it.
    Ticket(Token, Ticket, Ticket),
}

impl State {
    pub(super) async fn enrol(&mut self, applicant: &Applicant, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        let entrance = &applicant.entrance;
        let application = &applicant.opened.application;
        let name = application.request.name().clone();
        let mut member = MemberId::default();
        SystemEntropy.fill(&mut member.0);
        let right = self.right(applicant, member, hand).await?;
        let (token, takeover) = match &right {
            Right::Ticket(token, ..) => (token, true),
            Right::Token(token) => (token, token.member.is_some() || self.has_left(applicant, hand)),
            Right::Again(token) => (token, false),
        };
        let before = self.enclave.member_id(&name);
        let endpoint = SocketAddr::new(entrance.source.ip(), self.endpoint_port(entrance));
        // A refusal leaves the enclave as it was.
        let clean = |error: coterie_control::issue::IssueError| Failed::Clean(error.into());
        let admission = self
            .enclave
            .provision(
                &token.template,
                vec![endpoint],
                &application.request,
                takeover,
                member,
                hand.now,
            )
            .map_err(clean)?;
        if admission != Admission::Known {
            let id = self.enclave.id();
            if let Some(before) = before {
                if matches!(right, Right::Ticket(..)) {
                    hand.w.renew_use(id, before, member).await?;
                }
                self.release_claims(before, hand).await?;
            }
            hand.w
                .claim_static_key(id, member, application.request.static_key())
                .await?;
            // Who comes back stays as long as the token says that it came with first.
            let made_by = hand.w.read().token_of_member(id, member).await?;
            if let Some(life) = made_by.and_then(|token| token.time_to_live) {
                tasks::ask_expiry(hand.w, id, member, hand.now.plus(life)).await?;
            }
        }
        let bundle = self.enclave.issue(&name, hand.now, &mut SystemEntropy)?;
        self.fresh.insert(name.clone());
        let ticket = self.ticket(right, &name, hand).await?;
        let detail = json!({
            "member": self.enclave.member_id(&name).map(|id| id.to_string()),
            "from": entrance.source.to_string(),
            "door": entrance.door.as_ref().map(Name::as_str),
            "key": application.request.fingerprint(),
            "how": match admission { Admission::New => "new", Admission::Known => "again", Admission::Replaced => "replaced" },
        });
        hand.audit(self.tenant, ("member.enrol", &self.object(name.as_str())), detail)
            .await?;
        let reply = Reply {
            bundle: bundle.into_bytes(),
            ticket,
        };
        Ok(Outcome::Reply(applicant.opened.reply(&reply, &mut SystemEntropy)))
    }

    /// By what the machine is let in; a use of the token counts from here on.
    async fn right(&mut self, applicant: &Applicant, member: MemberId, hand: &mut Hand<'_>) -> Result<Right, Failed> {
        let Applicant { opened, entrance, .. } = applicant;
        let request = &opened.application.request;
        let (name, id) = (request.name(), self.enclave.id());
        let token = hand.w.read().token(id, entrance.token).await?;
        let token = token.ok_or(Refusal::Token(TokenRefusal::Unknown))?;
        if self.enclave.static_key(name) == Some(request.static_key())
            && let Some(known) = self.enclave.member_id(name)
        {
            // The machine has not heard the reply, or another one answers for it: the same keys get the same again.
            let used = hand.w.read().token_of_member(id, known).await?;
            if used.is_some_and(|used| used.id == token.id) {
                return Ok(Right::Again(token));
            }
        }
        if let Some(ticket) = &opened.application.ticket
            && self.returns_by_ticket(&token.template)
            && let Some(holder) = self.enclave.member_id(name)
        {
            let next = Secret::draw(&mut SystemEntropy);
            match hand.w.use_ticket(id, holder, ticket, &next, hand.now).await? {
                TicketUse::Replaced => return Ok(Right::Ticket(token, ticket.duplicate(), next)),
                TicketUse::Clone { replaced_at } => {
                    return Err(Refusal::ClonedTicket(name.clone(), replaced_at).into());
                }
                TicketUse::Unknown => {}
            }
        }
        match hand
            .w
            .use_token(token.id, member, name, entrance.source.ip(), hand.now)
            .await?
        {
            TokenUse::Used(token) => {
                if token.uses_made >= token.uses_allowed {
                    self.knocking = None;
                }
                Ok(Right::Token(token))
            }
            TokenUse::Refused(refusal) => Err(Refusal::Token(refusal).into()),
        }
    }

    /// The ticket for the machine's next return, where its template says so.
    async fn ticket(&mut self, right: Right, name: &Name, hand: &mut Hand<'_>) -> Result<Option<Ticket>, Failed> {
        let Some(member) = self.enclave.member_id(name) else {
            return Ok(None);
        };
        let id = self.enclave.id();
        match right {
            Right::Ticket(token, used, next) => {
                // The member is a new one after each return. The ticket that it came with is its last one: who shows it again
                // is a clone.
                hand.w.put_ticket(id, member, Some(token.id), &used, hand.now).await?;
                hand.w.use_ticket(id, member, &used, &next, hand.now).await?;
                Ok(Some(next))
            }
            Right::Token(token) | Right::Again(token) if self.returns_by_ticket(&token.template) => {
                let next = Secret::draw(&mut SystemEntropy);
                hand.w.put_ticket(id, member, Some(token.id), &next, hand.now).await?;
                Ok(Some(next))
            }
            Right::Token(_) | Right::Again(_) => Ok(None),
        }
    }

    /// Whether who holds the name has left it to others.
    fn has_left(&self, applicant: &Applicant, hand: &Hand<'_>) -> bool {
        let since_start = Duration::from_secs(hand.now.0.saturating_sub(self.since.0));
        applicant
            .holder_away
            .is_some_and(|away| away.min(since_start) >= NAME_RESTS)
    }

    fn returns_by_ticket(&self, template: &Name) -> bool {
        let template = self.enclave.file().templates.get(template);
        template.is_some_and(|template| template.returning == Return::Ticket)
    }

    /// A door sees the port that the machine's coteried has; who came over TCP has the enclave's.
    fn endpoint_port(&self, entrance: &Entrance) -> u16 {
        match entrance.door {
            Some(_) => entrance.source.port(),
            None => self.enclave.file().enclave.port,
        }
    }

    pub(super) async fn note_refusal(
        &mut self,
        entrance: &Entrance,
        reason: &str,
        hand: &mut Hand<'_>,
    ) -> Result<Outcome, Failed> {
        let detail = json!({
            "from": entrance.source.to_string(),
            "door": entrance.door.as_ref().map(Name::as_str),
            "reason": reason,
        });
        let object = self.object(&format!("token-{}", entrance.token));
        hand.audit(self.tenant, ("member.refuse", &object), detail).await?;
        Ok(Outcome::Done(0))
    }
}
