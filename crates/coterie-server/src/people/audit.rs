//! `GET /v1/audit`: the caller's audit log, page by page, and what comes.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Json, response::IntoResponse as _};
use coterie_api::v1::{self, AuditEntry, AuditPage, AuditQuery};
use coterie_store::{AuditRow, Scope, Store};
use serde_json::Value;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    answer::Answer,
    ask::{Asked, Call},
};
use crate::{hex::hex, listener::stopped, refusal::Refusal};

/// How often the log is looked at while somebody waits for an entry.
const LOOK: Duration = Duration::from_secs(1);
/// How many may wait at a time: each looks at the log.
const WAITERS: usize = 128;

/// Room for those who wait for an entry.
#[derive(Debug, Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WAITERS)))
    }
}

/// `GET /v1/audit`
pub(super) async fn page(call: Call, Extension(room): Extension<Room>, Asked(query): Asked<AuditQuery>) -> Answer {
    if query.limit == Some(0) {
        return Err(Refusal::BadRequest("limit is 1 or more".to_owned()).into());
    }
    if query.after.is_some_and(|after| i64::try_from(after).is_err()) {
        return Err(Refusal::BadRequest("after is larger than any entry's number".to_owned()).into());
    }
    let limit = query.limit.unwrap_or(v1::MAX_AUDIT_PAGE).min(v1::MAX_AUDIT_PAGE);
    let wait = Duration::from_secs(query.wait.unwrap_or(0).min(v1::MAX_AUDIT_WAIT));
    let until = Instant::now() + wait;
    let mut stopping = call.server.stopping.clone();
    let mut place = None;
    let rows = loop {
        let rows = rows(&call.server.store, call.caller.scope(), query.after, limit).await?;
        let left = until.saturating_duration_since(Instant::now());
        if !rows.is_empty() || left.is_zero() {
            break rows;
        }
        if place.is_none() {
            place = Some(room.0.try_acquire().map_err(|_full| Refusal::TooMany)?);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK.min(left)) => {}
            // Who waits keeps no server from stopping.
            () = stopped(&mut stopping) => break rows,
        }
    };
    let next = rows.last().map(|row| row.seq).or(query.after).unwrap_or(0);
    let entries = rows.into_iter().map(told).collect();
    Ok(Json(AuditPage { entries, next }).into_response())
}

async fn rows(store: &Store, scope: Scope, after: Option<u64>, limit: u32) -> Result<Vec<AuditRow>, Refusal> {
    let mut read = store.read().await?;
    Ok(match after {
        Some(after) => read.audit(scope, after, limit).await?,
        None => read.newest_audit(scope, limit).await?,
    })
}

fn told(row: AuditRow) -> AuditEntry {
    AuditEntry {
        seq: row.seq,
        time: row.time.0,
        actor: row.actor,
        action: row.action,
        object: row.object,
        detail: serde_json::from_str(&row.detail).unwrap_or(Value::String(row.detail)),
        hash: hex(&row.hash),
    }
}
