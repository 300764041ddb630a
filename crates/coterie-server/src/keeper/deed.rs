//! What can be done to an enclave.

use std::net::SocketAddr;

use coterie_control::{bundle::Request, issue::Changes};
use coterie_model::{MemberId, Name, Revision, UnixTime};
use coterie_store::{Scope, TenantId, TokenId, Write};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{State, enrol::Applicant, state::Failed, token::TokenWanted};
use crate::refusal::Refusal;

/// Something to do, and who asks for it.
#[derive(Debug)]
pub(crate) struct Deed {
    /// Who, for the audit log.
    pub(crate) actor: String,
    /// What.
    pub(crate) act: Act,
}

/// Something to do.
#[derive(Debug)]
pub(crate) enum Act {
    /// A machine applies with a token.
    Enrol(Box<Applicant>),
    /// A machine was refused before it came so far; for the audit log.
    RefuseEntrance {
        /// Where it is.
        source: SocketAddr,
        /// The door that carried its application.
        door: Option<Name>,
        /// The token that it named; `None`: what it sent is no application.
        token: Option<TokenId>,
        /// Why.
        reason: String,
    },
    /// A node asks for a new bundle.
    Renew(Box<Request>),
    /// A person brings the request of a machine that is enrolled by hand.
    Admit(Box<Request>),
    /// A new enclave file.
    Apply {
        /// The file.
        text: String,
        /// The version that it is to replace ([`State::file_version`]), where the one who asks insists.
        expected: Option<u64>,
    },
    /// A member is refused until it is released.
    Isolate(Name),
    /// A member that was isolated comes back.
    Release(Name),
    /// Members are refused for good; what they held gets new keys.
    Revoke(Vec<Name>),
    /// The machines of members are gone.
    End(Vec<Name>),
    /// A machine says that it is gone for good.
    Leave(Name, MemberId),
    /// An ephemeral member was not seen for too long.
    Expire(MemberId),
    /// A node shows a list of revocations that it was given before an older state was restored.
    TakeBack(Vec<u8>),
    /// A community gets a new key.
    Rotate {
        /// Which.
        community: Name,
        /// At once, to a key that was never handed out.
        removal: bool,
    },
    /// The trust anchor is replaced.
    RotateRoot,
    /// A join token is made.
    CreateToken(TokenWanted),
    /// A join token is good for nothing more.
    RevokeToken(TokenId),
}

/// What a deed gave.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is done; the enclave's newest change.
    Done(Revision),
    /// The reply to an application, sealed.
    Reply(Vec<u8>),
    /// A bundle.
    Bundle(String),
    /// What a new file changed.
    Applied(Box<Changes>),
    /// Members that were ended or revoked.
    Gone(Vec<Name>, Revision),
    /// A community's new epoch, and when it activates.
    Rolled(u64, UnixTime),
    /// A token, as text.
    Token(TokenId, Zeroizing<String>),
}

impl Outcome {
    /// The revision, once it is known.
    pub(super) fn at(self, revision: Revision) -> Self {
        match self {
            Self::Done(_) => Self::Done(revision),
            Self::Gone(names, _) => Self::Gone(names, revision),
            other @ (Self::Reply(_) | Self::Bundle(_) | Self::Token(..) | Self::Applied(_) | Self::Rolled(..)) => other,
        }
    }
}

/// One deed at work.
pub(super) struct Hand<'a> {
    pub(super) w: &'a mut Write,
    pub(super) actor: &'a str,
    pub(super) now: UnixTime,
}

impl Hand<'_> {
    /// Remembers what is done.
    pub(super) async fn audit(
        &mut self,
        tenant: TenantId,
        (action, object): (&str, &str),
        detail: Value,
    ) -> Result<(), Failed> {
        let entry = coterie_store::AuditEntry {
            scope: Scope::Tenant(tenant),
            actor: self.actor,
            action,
            object,
            detail: &detail,
        };
        self.w.audit(&entry, self.now).await?;
        Ok(())
    }
}

impl State {
    /// Does one deed in a transaction.
    pub(super) async fn perform(&mut self, deed: &Deed, w: &mut Write, now: UnixTime) -> Result<Outcome, Failed> {
        let mut hand = Hand {
            w,
            actor: &deed.actor,
            now,
        };
        match &deed.act {
            Act::Enrol(applicant) => self.enrol(applicant, &mut hand).await,
            Act::RefuseEntrance {
                source,
                door,
                token,
                reason,
            } => {
                let from = (*source, door.as_ref());
                self.note_refusal(from, *token, reason, &mut hand).await
            }
            Act::Renew(request) => self.renew(request, &hand),
            Act::Admit(request) => self.admit(request, &mut hand).await,
            Act::Apply { text, expected } => self.apply(text, *expected, &mut hand).await,
            Act::Isolate(name) => self.isolate(name, &mut hand).await,
            Act::Release(name) => self.release(name, &mut hand).await,
            Act::Revoke(names) => self.revoke(names, &mut hand).await,
            Act::End(names) => self.end(names, "member.end", &mut hand).await,
            Act::Leave(name, member) => self.leave(name, *member, &mut hand).await,
            Act::Expire(member) => self.expire(*member, &mut hand).await,
            Act::TakeBack(list) => self.take_back(list, &mut hand).await,
            Act::Rotate { community, removal } => self.rotate(community, *removal, &mut hand).await,
            Act::RotateRoot => self.rotate_root(&mut hand).await,
            Act::CreateToken(wanted) => self.create_token(wanted, &mut hand).await,
            Act::RevokeToken(id) => self.revoke_token(*id, &mut hand).await,
        }
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Clean(refusal)
    }
}
