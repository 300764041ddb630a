//! Enrolment: a machine with a token becomes a member (`docs/BUNDLE.md` section 9). Check of the token and making of the member
//! are one transaction.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coterie_control::{
    bundle::Request,
    enrol::{Application, Opened, Reply, Ticket},
    file::{Facts, Return},
    issue::Admission,
};
use coterie_crypto::{Entropy as _, Secret, hash::sha256};
use coterie_model::{MemberId, Name, UnixTime};
use coterie_store::{StoreError, TicketUse, Token, TokenId, TokenRefusal, TokenUse};
use serde_json::json;

use super::{Outcome, Presence, State, deed::Hand, state::Failed};
use crate::{entropy::SystemEntropy, refusal::Refusal, tasks};

/// For so long an answer that was lost is given again.
const LOST: Duration = Duration::from_secs(600);
/// Answers that are kept take no more room than this; then the oldest go.
const KEPT_BYTES: usize = 8 << 20;
/// A name that is bound to no token rests for this part of a lease before another machine may have it.
const NAME_RESTS: u32 = 4;

/// Replies that were given lately, by the application that each is to: who shows the same again gets the same again, and nothing is
/// made for it.
#[derive(Debug, Default)]
pub(super) struct Replies {
    given: BTreeMap<[u8; 32], (Vec<u8>, UnixTime)>,
    order: VecDeque<[u8; 32]>,
    bytes: usize,
    made: BTreeMap<MemberId, UnixTime>,
}

impl Replies {
    fn keep(&mut self, application: [u8; 32], reply: &[u8], member: MemberId, now: UnixTime) {
        self.made.retain(|_, at| at.plus(LOST) > now);
        self.made.insert(member, now);
        self.bytes += reply.len();
        // A batch that is done anew replies anew.
        match self.given.insert(application, (reply.to_vec(), now)) {
            Some((before, _)) => self.bytes -= before.len(),
            None => self.order.push_back(application),
        }
        while let Some(oldest) = self.order.front() {
            let is_over = self.given.get(oldest).is_none_or(|(_, at)| at.plus(LOST) <= now);
            if !is_over && self.bytes <= KEPT_BYTES {
                break;
            }
            if let Some((gone, _)) = self.order.pop_front().and_then(|oldest| self.given.remove(&oldest)) {
                self.bytes -= gone.len();
            }
        }
    }

    fn made_at(&self, member: MemberId) -> Option<UnixTime> {
        self.made.get(&member).copied()
    }
}

/// What tells one application from another.
pub(crate) fn digest(application: &[u8]) -> [u8; 32] {
    sha256(&[b"coterie/1 seen application", application])
}

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
    /// What tells the application from others.
    pub(crate) digest: [u8; 32],
    /// Who follows.
    pub(crate) presence: Arc<Presence>,
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
            Right::Token(token) => (token, token.member.is_some() || self.has_left(applicant, hand.now)),
            Right::Again(token) => (token, false),
        };
        let request = &application.request;
        if let Right::Token(token) = &right
            && token.member.is_none()
        {
            self.fits(&token.template, application)?;
        }
        if self.enclave.static_key(&name) != Some(request.static_key()) {
            self.claim(&name, member, request, matches!(right, Right::Ticket(..)), hand)
                .await?;
        }
        let endpoint = SocketAddr::new(entrance.source.ip(), self.endpoint_port(entrance));
        // A refusal leaves the enclave as it was.
        let clean = |error: coterie_control::issue::IssueError| Failed::Clean(error.into());
        let admission = self
            .enclave
            .provision(&token.template, vec![endpoint], request, takeover, member, hand.now)
            .map_err(clean)?;
        if admission != Admission::Known {
            // Who had the name before was another machine.
            applicant.presence.forget(&name);
            let id = self.enclave.id();
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
            "key": request.fingerprint(),
            "how": match admission { Admission::New => "new", Admission::Known => "again", Admission::Replaced => "replaced" },
        });
        hand.audit(self.tenant, ("member.enrol", &self.object(name.as_str())), detail)
            .await?;
        let reply = Reply {
            bundle: bundle.into_bytes(),
            ticket,
        };
        let bytes = applicant.opened.reply(&reply, &mut SystemEntropy);
        if let Some(member) = self.enclave.member_id(&name) {
            self.replies.keep(applicant.digest, &bytes, member, hand.now);
        }
        Ok(Outcome::Reply(bytes))
    }

    /// The reply that an application had.
    pub(crate) fn reply_to(&self, application: &[u8; 32], now: UnixTime) -> Option<Vec<u8>> {
        let (reply, at) = self.replies.given.get(application)?;
        (at.plus(LOST) > now).then(|| reply.clone())
    }

    /// Who holds a token for anybody becomes what its template says only if the template's `match` says so of the machine: by its
    /// own word, so this keeps mistakes out and no liar. Whom a token names, its maker has matched.
    fn fits(&self, template: &Name, application: &Application) -> Result<(), Refusal> {
        let kind = self.enclave.file().templates.get(template);
        let facts = Facts {
            name: Some(application.request.name().to_string()),
            ..application.facts.clone()
        };
        match kind.and_then(|kind| kind.matching.as_ref()) {
            Some(matching) if !matching.matches(&facts) => Err(Refusal::NoMatch(template.clone())),
            Some(_) | None => Ok(()),
        }
    }

    /// What the store is to have of a new enrolment beside the enclave's records, in the place of what it has of the name's old
    /// one. Nothing in memory has changed yet: a static key that is somebody's is a clean refusal.
    async fn claim(
        &mut self,
        name: &Name,
        member: MemberId,
        request: &Request,
        comes_back: bool,
        hand: &mut Hand<'_>,
    ) -> Result<(), Failed> {
        let id = self.enclave.id();
        if let Some(before) = self.enclave.member_id(name) {
            if comes_back {
                hand.w.renew_use(id, before, member).await?;
            }
            self.release_claims(before, hand).await?;
        }
        let claimed = hand.w.claim_static_key(id, member, request.static_key()).await;
        claimed.map_err(|error| {
            if matches!(error, StoreError::StaticKeyTaken) {
                return Failed::Clean(Refusal::StaticKeyTaken);
            }
            error.into()
        })
    }

    /// By what the machine is let in; a use of the token counts from here on.
    async fn right(&mut self, applicant: &Applicant, member: MemberId, hand: &mut Hand<'_>) -> Result<Right, Failed> {
        let Applicant { opened, entrance, .. } = applicant;
        let request = &opened.application.request;
        let (name, id) = (request.name(), self.enclave.id());
        let token = hand.w.read().token(id, entrance.token).await?;
        let token = token.ok_or(Refusal::Token(TokenRefusal::Unknown))?;
        // Also for who has a ticket, or was let in before.
        if token.revoked.is_some() {
            return Err(Refusal::Token(TokenRefusal::Revoked).into());
        }
        if token
            .source
            .is_some_and(|prefix| !prefix.contains(entrance.source.ip()))
        {
            return Err(Refusal::Token(TokenRefusal::WrongSource).into());
        }
        if self.enclave.static_key(name) == Some(request.static_key())
            && let Some(known) = self.enclave.member_id(name)
        {
            // The machine has not heard the reply, or another one answers for it: the same keys get the same again.
            let used = hand.w.read().token_of_member(id, known).await?;
            if used.is_some_and(|used| used.id == token.id) {
                // Later it has heard it: who shows its application then is somebody who saw it.
                let lately = self.replies.made_at(known).is_some() || self.since.plus(LOST) > hand.now;
                return match lately && !applicant.presence.was_here(name) {
                    true => Ok(Right::Again(token)),
                    false => Err(Refusal::Token(TokenRefusal::Spent).into()),
                };
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
            TokenUse::Used(token) => Ok(Right::Token(token)),
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

    /// Whether who holds the name has left it to others: it was not seen for a part of a lease.
    fn has_left(&self, applicant: &Applicant, now: UnixTime) -> bool {
        let name = applicant.opened.application.request.name();
        let presence = &applicant.presence;
        if presence.is_here(name) {
            return false;
        }
        let made = self
            .enclave
            .member_id(name)
            .and_then(|member| self.replies.made_at(member));
        let unseen = Duration::from_secs(now.0.saturating_sub(made.map_or(self.since, |at| at.max(self.since)).0));
        let away = presence.away_for(name).map_or(unseen, |away| away.min(unseen));
        away >= self.enclave.file().enclave.lease / NAME_RESTS
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
        (source, door): (SocketAddr, Option<&Name>),
        token: Option<TokenId>,
        reason: &str,
        hand: &mut Hand<'_>,
    ) -> Result<Outcome, Failed> {
        let detail = json!({
            "from": source.to_string(),
            "door": door.map(Name::as_str),
            "reason": reason,
        });
        let shown = token.map_or_else(|| "no-application".to_owned(), |token| format!("token-{token}"));
        let object = self.object(&shown);
        hand.audit(self.tenant, ("member.refuse", &object), detail).await?;
        Ok(Outcome::Done(0))
    }
}
