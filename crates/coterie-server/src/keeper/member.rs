//! Members: renewed, isolated, released, revoked, ended; and the keys of what they held.

use core::time::Duration;

use coterie_control::{
    bundle::Request,
    issue::{Admission, Enclave, IssueError, Roll},
};
use coterie_model::{MemberId, Name, UnixTime};
use coterie_store::{StoreError, Write};
use serde_json::json;

use super::{Outcome, State, deed::Hand, state::Failed};
use crate::{entropy::SystemEntropy, refusal::Refusal, tasks};

/// The shortest and the longest time in which members fetch a key before it is used.
const AHEAD: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

impl State {
    pub(super) fn renew(&mut self, request: &Request, hand: &Hand<'_>) -> Result<Outcome, Failed> {
        let renewed = self.enclave.renew(request, hand.now, &mut SystemEntropy);
        // Nothing of it was taken over where the member is none, or isolated.
        let is_clean = |error: &IssueError| {
            matches!(
                error,
                IssueError::NotEnrolled(_)
                    | IssueError::Isolated(_)
                    | IssueError::OtherIdentity(_)
                    | IssueError::KeyRevoked(_)
                    | IssueError::SealingKey
                    | IssueError::SealingKeyUsed(_)
                    | IssueError::UnknownMember(_)
                    | IssueError::ClockBehind { .. }
                    | IssueError::AuthorityEnded(_)
            )
        };
        let bundle = renewed.map_err(|error| Failed::of(error, is_clean))?;
        self.fresh.insert(request.name().clone());
        Ok(Outcome::Bundle(bundle))
    }

    pub(super) async fn admit(&mut self, request: &Request, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        let name = request.name().clone();
        let before = self.enclave.member_id(&name);
        // What is not admitted has changed nothing.
        let admitted = self.enclave.admit(request, hand.now, &mut SystemEntropy);
        let admission = admitted.map_err(|error| Failed::Clean(error.into()))?;
        if admission != Admission::Known {
            if let Some(before) = before {
                self.release_claims(before, hand).await?;
            }
            let member = self.enclave.member_id(&name).ok_or(Refusal::NotAMember)?;
            hand.w
                .claim_static_key(self.enclave.id(), member, request.static_key())
                .await?;
        }
        let bundle = self.enclave.issue(&name, hand.now, &mut SystemEntropy)?;
        let detail = json!({ "key": request.fingerprint() });
        hand.audit(self.tenant, ("member.admit", &self.object(name.as_str())), detail)
            .await?;
        Ok(Outcome::Bundle(bundle))
    }

    pub(super) async fn isolate(&mut self, name: &Name, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        self.known(name)?;
        if !self.enclave.is_isolated(name) {
            self.enclave.isolate(name, hand.now)?;
            hand.audit(self.tenant, ("member.isolate", &self.object(name.as_str())), json!({}))
                .await?;
        }
        Ok(Outcome::Done(0))
    }

    pub(super) async fn release(&mut self, name: &Name, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        self.known(name)?;
        if self.enclave.release(name, hand.now)? {
            hand.audit(self.tenant, ("member.release", &self.object(name.as_str())), json!({}))
                .await?;
        }
        Ok(Outcome::Done(0))
    }

    /// Refuses again whom the server refused before an older state was restored.
    pub(super) async fn take_back(&mut self, list: &[u8], hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        let taken = self.enclave.take_back(list, hand.now)?;
        let detail = json!({ "reason": "it was refused before an older state was restored" });
        for name in &taken.isolated {
            let object = self.object(name.as_str());
            hand.audit(self.tenant, ("member.isolate", &object), detail.clone())
                .await?;
        }
        Ok(Outcome::Done(0))
    }

    /// Revokes members, and gives what they held new keys, once for all of them.
    pub(super) async fn revoke(&mut self, names: &[Name], hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        names.iter().try_for_each(|name| self.known(name))?;
        let mut held = std::collections::BTreeSet::new();
        for name in names {
            let member = self.enclave.member_id(name);
            held.extend(self.enclave.revoke(name, hand.now)?);
            if let Some(member) = member {
                self.release_claims(member, hand).await?;
            }
            hand.audit(self.tenant, ("member.revoke", &self.object(name.as_str())), json!({}))
                .await?;
        }
        for community in &held {
            self.enclave
                .roll(community, Roll::Removal, hand.now, &mut SystemEntropy)?;
        }
        Ok(Outcome::Gone(names.to_vec(), 0))
    }

    pub(super) async fn end(&mut self, names: &[Name], action: &str, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        names.iter().try_for_each(|name| self.known(name))?;
        for name in names {
            let member = self.enclave.member_id(name);
            self.enclave.end(name, hand.now)?;
            if let Some(member) = member {
                self.release_claims(member, hand).await?;
            }
            hand.audit(self.tenant, (action, &self.object(name.as_str())), json!({}))
                .await?;
        }
        Ok(Outcome::Gone(names.to_vec(), 0))
    }

    /// Who is isolated does not end that by leaving.
    pub(super) async fn leave(
        &mut self,
        name: &Name,
        member: MemberId,
        hand: &mut Hand<'_>,
    ) -> Result<Outcome, Failed> {
        if self.enclave.member_id(name) != Some(member) {
            return Err(Refusal::NotAMember.into());
        }
        if self.enclave.is_isolated(name) {
            return Err(Refusal::Isolated(name.clone()).into());
        }
        self.end(core::slice::from_ref(name), "member.end", hand).await
    }

    pub(super) async fn expire(&mut self, member: MemberId, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        let found = self.enclave.enrolled().find(|(_, enrolled)| enrolled.member == member);
        match found.map(|(name, _)| name.clone()) {
            Some(name) => self.end(&[name], "member.expire", hand).await,
            None => Ok(Outcome::Gone(Vec::new(), 0)),
        }
    }

    pub(super) async fn rotate(
        &mut self,
        community: &Name,
        removal: bool,
        hand: &mut Hand<'_>,
    ) -> Result<Outcome, Failed> {
        let Some(policy) = self.enclave.file().communities.get(community) else {
            return Err(Refusal::NotFound("community").into());
        };
        let kind = if removal {
            Roll::Removal
        } else {
            let lease = self.enclave.file().enclave.lease;
            let activates_in = (lease / 12).min(policy.epoch / 4).clamp(AHEAD.0, AHEAD.1);
            Roll::Scheduled { activates_in }
        };
        let rolled = self.enclave.roll(community, kind, hand.now, &mut SystemEntropy);
        let is_clean =
            |error: &IssueError| matches!(error, IssueError::NextPending { .. } | IssueError::TooManyEpochs { .. });
        let rolled = rolled.map_err(|error| Failed::of(error, is_clean))?;
        set_roll(hand.w, &self.enclave, community, hand.now).await?;
        let detail = json!({ "epoch": rolled.epoch, "activates": rolled.activates.0, "removal": removal });
        hand.audit(
            self.tenant,
            ("coi.rotate-key", &self.object(community.as_str())),
            detail,
        )
        .await?;
        Ok(Outcome::Rolled(rolled.epoch, rolled.activates))
    }

    pub(super) async fn rotate_root(&mut self, hand: &mut Hand<'_>) -> Result<Outcome, Failed> {
        self.enclave.rotate_root(hand.now, &mut SystemEntropy)?;
        self.root_changed = true;
        self.knocking = None;
        hand.audit(self.tenant, ("root.rotate", self.enclave.name().as_str()), json!({}))
            .await?;
        Ok(Outcome::Done(0))
    }

    /// What the store has of an enrolment beside the enclave's records.
    pub(super) async fn release_claims(&mut self, member: MemberId, hand: &mut Hand<'_>) -> Result<(), Failed> {
        let id = self.enclave.id();
        hand.w.release_static_key(id, member).await?;
        if hand.w.remove_ticket(id, member).await? {
            self.knocking = None;
        }
        hand.w.forget_use(id, member, hand.now).await?;
        Ok(())
    }

    fn known(&self, name: &Name) -> Result<(), Refusal> {
        match self.enclave.member_id(name) {
            Some(_) => Ok(()),
            None if self.enclave.members().any(|(other, _)| other == name) => Err(Refusal::NotEnrolled(name.clone())),
            None => Err(Refusal::NotFound("member")),
        }
    }
}

/// Says when a community's next scheduled roll is due.
pub(super) async fn set_roll(
    w: &mut Write,
    enclave: &Enclave,
    community: &Name,
    now: UnixTime,
) -> Result<(), StoreError> {
    let Some(policy) = enclave.file().communities.get(community) else {
        return Ok(());
    };
    tasks::set_roll(w, enclave.id(), community, now.plus(policy.epoch)).await
}
