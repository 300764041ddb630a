//! Members: who is there, who is cut off, and whose machine is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::{Json, body::Body, response::IntoResponse as _};
use coterie_api::v1::{self, CutOff, CutOffQuery, EndMembers, Ended, List, Member, MemberState};
use coterie_control::{
    bundle::Request,
    file,
    issue::{Enclave, Enrolled},
};
use coterie_model::{Epoch, Name, Revision};
use coterie_store::Store;
use http::header::CONTENT_TYPE;

use super::{
    answer::{Answer, count},
    ask::{self, Asked, Call},
    communities::newest,
};
use crate::{
    clock,
    keeper::{Act, Keeper, Outcome, Presence},
    refusal::Refusal,
};

/// Members that are ended in one transaction.
const CHUNK: usize = 500;
/// How often members are sorted anew into those that are there and those that are gone, while others end them too.
const TRIES: u32 = 3;

/// `GET /v1/enclaves/{e}/members`
pub(super) async fn list(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let mut items = keeper
        .look(|state| {
            let enclave = &state.enclave;
            let enrolled: BTreeMap<&Name, Enrolled> = enclave.enrolled().collect();
            let all = enclave.members();
            all.map(|each| told(enclave, each, enrolled.get(each.0)))
                .collect::<Vec<_>>()
        })
        .await?;
    let lives = lives(&call.server.store, &keeper).await?;
    items
        .iter_mut()
        .for_each(|member| meet(member, &keeper.presence, &lives));
    Ok(Json(List { items }).into_response())
}

/// `GET /v1/enclaves/{e}/members/{m}`
pub(super) async fn one(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let name = call.name("m", "member")?;
    let asked = name.clone();
    let found = keeper
        .look(move |state| {
            let enclave = &state.enclave;
            let seat = enclave.seat(&name)?;
            let enrolled = enclave.enrolled().find(|(other, _)| **other == name);
            Some(told(enclave, (&name, seat), enrolled.as_ref().map(|(_, e)| e)))
        })
        .await?;
    let Some(mut member) = found else {
        return Err(missing(&call, &keeper, &asked).await?.into());
    };
    meet(
        &mut member,
        &keeper.presence,
        &lives(&call.server.store, &keeper).await?,
    );
    Ok(Json(member).into_response())
}

/// `POST /v1/enclaves/{e}/members/{m}/isolate`
pub(super) async fn isolate(call: Call, Asked(query): Asked<CutOffQuery>) -> Answer {
    cut_off(call, query, Cut::Isolate).await
}

/// `POST /v1/enclaves/{e}/members/{m}/release`
pub(super) async fn release(call: Call, Asked(query): Asked<CutOffQuery>) -> Answer {
    cut_off(call, query, Cut::Release).await
}

/// `POST /v1/enclaves/{e}/members/{m}/revoke`
pub(super) async fn revoke(call: Call, Asked(query): Asked<CutOffQuery>) -> Answer {
    cut_off(call, query, Cut::Revoke).await
}

/// How a member is cut off, or let in again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Isolate,
    Release,
    Revoke,
}

/// What is to be compared of a member that is cut off or let in again.
struct Before {
    is_isolated: bool,
    epochs: BTreeMap<Name, Epoch>,
}

/// Cuts a member off or lets it in again, and waits until those who follow have heard.
async fn cut_off(call: Call, query: CutOffQuery, cut: Cut) -> Answer {
    let keeper = call.keeper().await?;
    let name = call.name("m", "member")?;
    let asked = name.clone();
    let before = keeper
        .look(move |state| {
            let seat = state.enclave.seat(&asked)?;
            let newest = |community: &Name| Some((community.clone(), newest(&state.enclave, community)?));
            Some(Before {
                is_isolated: state.enclave.is_isolated(&asked),
                epochs: seat.communities.iter().filter_map(newest).collect(),
            })
        })
        .await?;
    let Some(before) = before else {
        return Err(missing(&call, &keeper, &name).await?.into());
    };
    let (act, changed) = match cut {
        Cut::Isolate => (Act::Isolate(name.clone()), !before.is_isolated),
        Cut::Release => (Act::Release(name.clone()), before.is_isolated),
        Cut::Revoke => (Act::Revoke(vec![name.clone()]), true),
    };
    let revision = match call.act(&keeper, act).await? {
        Outcome::Done(revision) | Outcome::Gone(_, revision) => revision,
        Outcome::Reply(_) | Outcome::Bundle(_) | Outcome::Applied(..) | Outcome::Rolled(..) | Outcome::Token(..) => {
            return Err(Refusal::Gone.into());
        }
    };
    let wait = query
        .wait_ms
        .unwrap_or(v1::MAX_CUT_OFF_WAIT_MS)
        .min(v1::MAX_CUT_OFF_WAIT_MS);
    let answer = heard(&keeper, name, revision, Duration::from_millis(wait)).await?;
    let communities_rolled = match cut {
        Cut::Revoke => rolled(&keeper, before.epochs).await?,
        Cut::Isolate | Cut::Release => Vec::new(),
    };
    let answer = CutOff {
        changed,
        communities_rolled,
        ..answer
    };
    Ok(Json(answer).into_response())
}

/// Why there is no member of this name: whom a token made is forgotten when it is gone, but not by the token.
async fn missing(call: &Call, keeper: &Keeper, name: &Name) -> Result<Refusal, Refusal> {
    let ended = call.server.store.read().await?.last_ended(keeper.enclave, name).await?;
    Ok(ended.map_or(Refusal::NotFound("member"), |at| Refusal::GoneAlready(name.clone(), at)))
}

/// Waits until everybody who follows, but the member itself, has applied what changed.
async fn heard(keeper: &Keeper, member: Name, revision: Revision, patience: Duration) -> Result<CutOff, Refusal> {
    let itself = [member];
    let (acknowledged, connected, took) = keeper.presence.all_acknowledged(revision, &itself, patience).await;
    let list = keeper
        .look(|state| state.enclave.revocations().map(|list| list.revision))
        .await?;
    let [member] = itself;
    Ok(CutOff {
        member,
        changed: true,
        connected: count(connected),
        acknowledged: count(acknowledged),
        milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        revision: list.unwrap_or(0),
        communities_rolled: Vec::new(),
    })
}

/// The communities that have a newer epoch than before.
async fn rolled(keeper: &Keeper, before: BTreeMap<Name, Epoch>) -> Result<Vec<Name>, Refusal> {
    keeper
        .look(move |state| {
            let is_newer = |(name, epoch): &(Name, Epoch)| newest(&state.enclave, name).is_some_and(|now| now > *epoch);
            before.into_iter().filter(is_newer).map(|(name, _)| name).collect()
        })
        .await
}

/// `DELETE /v1/enclaves/{e}/members/{m}`: its machine is gone.
pub(super) async fn end(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let name = call.name("m", "member")?;
    let asked = name.clone();
    if !keeper.look(move |state| state.enclave.seat(&asked).is_some()).await? {
        return Err(missing(&call, &keeper, &name).await?.into());
    }
    let ended = ended(&call, &keeper, [name].into()).await?;
    Ok(Json(ended).into_response())
}

/// `POST /v1/enclaves/{e}/members/end`: the machines are gone. A name that is nobody's is one of those that are not enrolled:
/// its machine may have been a member that a token made, and said itself that it goes.
pub(super) async fn end_many(call: Call, ask::Json(wanted): ask::Json<EndMembers>) -> Answer {
    let keeper = call.keeper().await?;
    let ended = ended(&call, &keeper, wanted.names.into_iter().collect()).await?;
    Ok(Json(ended).into_response())
}

/// Ends members, so many in one transaction that others get their turn in between.
async fn ended(call: &Call, keeper: &Keeper, names: BTreeSet<Name>) -> Result<Ended, Refusal> {
    let mut done = BTreeSet::new();
    let all: Vec<Name> = names.iter().cloned().collect();
    for chunk in all.chunks(CHUNK) {
        done.extend(end_chunk(call, keeper, chunk).await?);
    }
    Ok(Ended {
        not_enrolled: names.difference(&done).cloned().collect(),
        ended: done.into_iter().collect(),
    })
}

async fn end_chunk(call: &Call, keeper: &Keeper, names: &[Name]) -> Result<Vec<Name>, Refusal> {
    let mut tries = 0;
    loop {
        tries += 1;
        let asked = names.to_vec();
        let enrolled: Vec<Name> = keeper
            .look(move |state| {
                let is_enrolled = |name: &Name| state.enclave.member_id(name).is_some();
                asked.into_iter().filter(is_enrolled).collect()
            })
            .await?;
        if enrolled.is_empty() {
            return Ok(enrolled);
        }
        match call.act(keeper, Act::End(enrolled)).await {
            Ok(Outcome::Gone(gone, _)) => return Ok(gone),
            Ok(_) => return Err(Refusal::Gone),
            // One of them ended at this moment.
            Err(Refusal::NotEnrolled(_) | Refusal::NotFound(_)) if tries < TRIES => {}
            Err(refusal) => return Err(refusal),
        }
    }
}

/// `POST /v1/enclaves/{e}/members/{m}/bundle`: a request as text, for a machine that is enrolled by hand; answers its bundle.
pub(super) async fn bundle(call: Call, body: Body) -> Answer {
    let keeper = call.keeper().await?;
    let name = call.name("m", "member")?;
    let asked = name.clone();
    if !keeper.look(move |state| state.enclave.seat(&asked).is_some()).await? {
        return Err(Refusal::NotFound("member").into());
    }
    let request = Request::parse(&ask::read(body, v1::MAX_BODY).await?);
    let request = request.map_err(|error| Refusal::BadRequest(format!("the request: {error}")))?;
    if *request.name() != name {
        let words = format!("the request is of `{}`, and the path names `{name}`", request.name());
        return Err(Refusal::BadRequest(words).into());
    }
    let Outcome::Bundle(text) = call.act(&keeper, Act::Admit(Box::new(request))).await? else {
        return Err(Refusal::Gone.into());
    };
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

/// A member as the enclave knows it; who is connected is another question.
fn told(enclave: &Enclave, (name, seat): (&Name, &file::Member), enrolled: Option<&Enrolled>) -> Member {
    Member {
        name: name.clone(),
        template: seat.template.clone(),
        communities: seat.communities.iter().cloned().collect(),
        addresses: seat.addresses.clone(),
        endpoints: seat.endpoints.clone(),
        state: match enrolled {
            None => MemberState::Expected,
            Some(_) if enclave.is_isolated(name) => MemberState::Isolated,
            Some(_) => MemberState::Enrolled,
        },
        member_id: enrolled.map(|e| e.member.to_string()),
        serial: enrolled.map_or(0, |e| e.serial),
        not_after: enrolled.map(|e| e.not_after.0),
        connected_since: None,
        last_seen: None,
        acknowledged_revision: None,
        ephemeral_ttl: None,
        fingerprint: enclave.fingerprint(name),
        version: None,
    }
}

/// Completes a member with what is known of its machine.
fn meet(member: &mut Member, presence: &Presence, lives: &BTreeMap<String, u64>) {
    let now = clock::now().0;
    member.ephemeral_ttl = member.member_id.as_ref().and_then(|id| lives.get(id)).copied();
    match presence.connected(&member.name) {
        Some(here) => {
            member.connected_since = Some(now.saturating_sub(here.since.elapsed().as_secs()));
            member.last_seen = Some(now);
            member.acknowledged_revision = Some(here.acknowledged);
            member.version = here.version;
            if member.state == MemberState::Enrolled {
                member.state = MemberState::Connected;
            }
        }
        None => {
            let away = presence.away_for(&member.name);
            member.last_seen = away.map(|away| now.saturating_sub(away.as_secs()));
        }
    }
}

/// How long the membership of ephemeral members lasts after they were last seen, by enrolment.
async fn lives(store: &Store, keeper: &Keeper) -> Result<BTreeMap<String, u64>, Refusal> {
    let ephemeral = store.read().await?.ephemeral(keeper.enclave).await?;
    let seconds = |(member, life): (coterie_model::MemberId, Duration)| (member.to_string(), life.as_secs());
    Ok(ephemeral.into_iter().map(seconds).collect())
}
