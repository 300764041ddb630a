//! What is to be done at a time: rows of the store, so that a server that was killed leaves nothing undone, and doing one twice
//! does no harm.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coterie_model::{EnclaveId, MemberId, Name, UnixTime};
use coterie_store::{Finished, StoreError, Task, Write};

use crate::{
    clock, hex,
    keeper::{self, Act, Deed, Keeper},
    refusal::Refusal,
    registry::Server,
};

/// A community's key is due for replacement.
const ROLL: &str = "roll";
/// An ephemeral member may not have been seen for too long.
const EXPIRE: &str = "expire";
/// What nobody needs any more is to be forgotten.
const PRUNE: &str = "prune";
/// Of what: one task for the whole database.
const ALL: &str = "all";
/// How often.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long a token is kept that ended, and made nobody who is not gone for so long.
const KEPT_TOKENS: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a claim on tasks is held.
const CLAIM: Duration = Duration::from_secs(30);
/// Tasks of one round.
const ROUND: u32 = 64;

/// Has a community's key replaced at `due` and no earlier: it is new now, whoever replaced it.
pub(crate) async fn set_roll(
    w: &mut Write,
    enclave: EnclaveId,
    community: &Name,
    due: UnixTime,
) -> Result<(), StoreError> {
    w.set_task(ROLL, &format!("{enclave}/{community}"), due).await
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
    let mut has_begun = false;
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            _ = stopping.changed() => return,
        }
        let done = match has_begun {
            true => round(&server).await,
            false => begin(&server).await,
        };
        has_begun |= done.is_ok();
        if let Err(error) = done {
            tracing::warn!("tasks that are due wait: {error:#}");
        }
    }
}

/// Takes over what a process before this one left, and asks for what is done regularly.
async fn begin(server: &Server) -> anyhow::Result<()> {
    let mut w = server.store.write().await?;
    w.release_tasks().await?;
    // Where it is asked for already, the earlier time holds: a server that is started every day forgets all the same.
    w.ask_task(PRUNE, ALL, clock::now().plus(PRUNE_EVERY)).await?;
    w.commit().await?;
    Ok(())
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
    if task.kind == PRUNE {
        return prune(server).await.map(Some);
    }
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

/// The deed itself says when the next one is due.
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

/// Forgets what nobody needs; gives when to do it again.
async fn prune(server: &Server) -> anyhow::Result<UnixTime> {
    let now = clock::now();
    let ended = UnixTime(now.0.saturating_sub(KEPT_TOKENS.as_secs()));
    for keeper in server.all() {
        let Ok(newest) = keeper.look(|state| state.revision).await else {
            // It was removed at this moment, with all that it had.
            continue;
        };
        let mut w = server.store.write().await?;
        // Who has heard none of these is told everything anew in any case.
        let floor = newest.saturating_sub(u64::from(keeper::MOST_CHANGES));
        let changes = match w.prune_changes(keeper.enclave, floor).await {
            Err(StoreError::NotFound { .. }) => continue,
            pruned => pruned?,
        };
        let tokens = w.prune_tokens(keeper.enclave, ended).await?;
        w.commit().await?;
        tracing::info!(enclave = %keeper.name, changes, tokens, "forgot what nobody needs any more");
    }
    Ok(now.plus(PRUNE_EVERY))
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
