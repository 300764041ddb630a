//! Communities with their keys, and the root.

use std::collections::BTreeMap;

use axum::{Json, response::IntoResponse as _};
use coterie_api::v1::{Community, List, NextEpoch, RollKind, RollRequest, RolledKey, RootRotated};
use coterie_control::issue::Enclave;
use coterie_model::{Epoch, Name, UnixTime};

use super::{
    answer::{Answer, count},
    ask::{self, Call},
};
use crate::{
    clock,
    hex::hex,
    keeper::{Act, Outcome},
    refusal::Refusal,
};

/// `GET /v1/enclaves/{e}/communities`
pub(super) async fn list(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let items = keeper.look(|state| told(&state.enclave, clock::now())).await?;
    Ok(Json(List { items }).into_response())
}

/// `POST /v1/enclaves/{e}/communities/{c}/rotate-key`
pub(super) async fn rotate_key(call: Call, ask::Json(wanted): ask::Json<RollRequest>) -> Answer {
    let keeper = call.keeper().await?;
    let community = call.name("c", "community")?;
    let asked = community.clone();
    let before = keeper.look(move |state| newest(&state.enclave, &asked)).await?;
    let before = before.ok_or(Refusal::NotFound("community"))?;
    let act = Act::Rotate {
        community: community.clone(),
        removal: match wanted.kind {
            RollKind::Scheduled => false,
            RollKind::Removal => true,
        },
    };
    let Outcome::Rolled(epoch, activates) = call.act(&keeper, act).await? else {
        return Err(Refusal::Gone.into());
    };
    let answer = RolledKey {
        community,
        epoch,
        activates: activates.0,
        changed: epoch > before,
    };
    Ok(Json(answer).into_response())
}

/// `POST /v1/enclaves/{e}/root/rotate`
pub(super) async fn rotate_root(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let root = |enclave: &Enclave| hex(&enclave.root_hash());
    let previous_root_hash = keeper.look(move |state| root(&state.enclave)).await?;
    call.act(&keeper, Act::RotateRoot).await?;
    let answer = keeper
        .look(move |state| {
            let enclave = &state.enclave;
            // Each enclave of a server has a pulse, which says the era.
            let era = enclave.head(clock::now()).map_or(0, |head| head.era);
            RootRotated {
                root_hash: root(enclave),
                previous_root_hash,
                era,
                members: count(enclave.enrolled().count()),
            }
        })
        .await?;
    Ok(Json(answer).into_response())
}

/// The number of a community's newest epoch.
pub(super) fn newest(enclave: &Enclave, community: &Name) -> Option<Epoch> {
    enclave.manifests(community).last().map(|manifest| manifest.epoch)
}

fn told(enclave: &Enclave, now: UnixTime) -> Vec<Community> {
    let mut holders: BTreeMap<&Name, u64> = BTreeMap::new();
    for (_, member) in enclave.members() {
        for community in &member.communities {
            *holders.entry(community).or_default() += 1;
        }
    }
    let communities = enclave.file().communities.iter();
    communities
        .filter_map(|(name, policy)| {
            let manifests = || enclave.manifests(name);
            let current = manifests().filter(|m| m.activates <= now).last();
            let current = current.or_else(|| manifests().next())?;
            // One that ends before it begins was replaced.
            let next = manifests()
                .filter(|m| m.activates > now && m.retires > m.activates)
                .last();
            Some(Community {
                name: name.clone(),
                tag: enclave.tag(name)?.to_string(),
                priority: policy.priority,
                members: holders.get(name).copied().unwrap_or(0),
                epoch: current.epoch,
                activates: current.activates.0,
                period: policy.epoch.as_secs(),
                next: next.map(|manifest| NextEpoch {
                    epoch: manifest.epoch,
                    activates: manifest.activates.0,
                }),
            })
        })
        .collect()
}
