//! What is to be done at a time: rows of the store, so that a server that was killed leaves nothing undone, and doing one twice
//! does no harm.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coterie_model::{EnclaveId, MemberId, Name, UnixTime};
use coterie_store::{Finished, StoreError, Task, Write};

use crate::{
    clock, hex,
    keeper::{Act, Deed, Keeper},
    refusal::Refusal,
    registry::Server,
};

/// A community's key is due for replacement.
const ROLL: &str = "roll";
/// An ephemeral member may not have been seen for too long.
const EXPIRE: &str = "expire";
/// How long a claim on tasks is held.
const CLAIM: Duration = Duration::from_secs(30);
/// Tasks of one round.
const ROUND: u32 = 64;

/// Asks for a community's key to be replaced.
pub(crate) async fn ask_roll(
    w: &mut Write,
    enclave: EnclaveId,
    community: &Name,
    due: UnixTime,
) -> Result<(), StoreError> {
    w.ask_task(ROLL, &format!("{enclave}/{community}"), due).await
}

/// Asks whether an ephemeral member is still there.
pub(crate) async fn ask_expiry(
    w: &mut Write,
    enclave: EnclaveId,
    member: MemberId,
    due: UnixTime,
) -> Result<(), StoreError> {
    w.ask_task(EXPIRE, &format!("{enclave}/{member}"), due).await
}

/// Does what is due, until the server stops.
pub(crate) async fn run(server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    let mut rounds = tokio::time::interval(Duration::from_secs(1));
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            _ = stopping.changed() => return,
        }
        if let Err(error) = round(&server).await {
            tracing::warn!("tasks that are due wait: {error:#}");
        }
    }
}

async fn round(server: &Server) -> anyhow::Result<()> {
    let now = clock::now();
    let next = server.store.read().await?.next_task().await?;
    if next.is_none_or(|due| due > now) {
        return Ok(());
    }
    let mut w = server.store.write().await?;
    let tasks = w.claim_tasks(now, CLAIM, ROUND).await?;
    w.commit().await?;
    for task in tasks {
        let done = perform(server, &task).await;
        let mut w = server.store.write().await?;
        match done {
            Ok(again) => {
                let finished = w.finish_task(&task).await?;
                if let (Some(due), Finished::Done) = (again, finished) {
                    w.ask_task(&task.kind, &task.subject, due).await?;
                }
            }
            Err(error) => {
                tracing::warn!(kind = task.kind, subject = task.subject, "put off: {error:#}");
                w.put_off_task(&task, &format!("{error:#}"), task.next_attempt(now))
                    .await?;
            }
        }
        w.commit().await?;
    }
    Ok(())
}

/// Does one; gives when it is to be done again.
async fn perform(server: &Server, task: &Task) -> anyhow::Result<Option<UnixTime>> {
    let (enclave, subject) = task.subject.split_once('/').context("a task without a subject")?;
    let enclave = EnclaveId(hex::id(enclave).context("no enclave's id")?);
    let Some(keeper) = server.keeper_of(enclave) else {
        return Ok(None);
    };
    match task.kind.as_str() {
        ROLL => roll(&keeper, &Name::new(subject)?).await,
        EXPIRE => {
            let member = MemberId(hex::id(subject).context("no member's id")?);
            expire(server, &keeper, member).await
        }
        other => anyhow::bail!("no task of kind {other} is known"),
    }
}

/// The deed itself asks for the next one.
async fn roll(keeper: &Keeper, community: &Name) -> anyhow::Result<Option<UnixTime>> {
    let deed = Deed {
        actor: "schedule".to_owned(),
        act: Act::Rotate {
            community: community.clone(),
            removal: false,
        },
    };
    match keeper.act(deed).await {
        Ok(_) | Err(Refusal::NotFound(_)) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

async fn expire(server: &Server, keeper: &Keeper, member: MemberId) -> anyhow::Result<Option<UnixTime>> {
    let now = clock::now();
    let ephemeral = server.store.read().await?.ephemeral(keeper.enclave).await?;
    let Some((_, life)) = ephemeral.into_iter().find(|(other, _)| *other == member) else {
        return Ok(None);
    };
    let name = keeper
        .look(move |state| {
            let found = state.enclave.enrolled().find(|(_, enrolled)| enrolled.member == member);
            found.map(|(name, _)| (name.clone(), state.since))
        })
        .await?;
    let Some((name, since)) = name else { return Ok(None) };
    if keeper.presence.is_here(&name) {
        return Ok(Some(now.plus(life)));
    }
    // Before this process began nobody could be seen.
    let since_start = Duration::from_secs(now.0.saturating_sub(since.0));
    let away = keeper.presence.away_for(&name).unwrap_or(since_start);
    if away < life {
        return Ok(Some(now.plus(life - away)));
    }
    let deed = Deed {
        actor: "schedule".to_owned(),
        act: Act::Expire(member),
    };
    keeper.act(deed).await?;
    Ok(None)
}
