//! Enclaves: which there are, and their files.

use axum::{Json, response::IntoResponse as _};
use coterie_api::v1::{EnclaveSummary, FILE_TYPE, List};
use http::{StatusCode, header::CONTENT_TYPE};

use super::{
    answer::{Answer, count, entity_tag},
    ask::Call,
};
use crate::{hex::hex, keeper::Keeper, refusal::Refusal};

/// `GET /v1/enclaves`
pub(super) async fn list(call: Call) -> Answer {
    let tenant = call.tenant()?;
    let rows = call.server.store.read().await?.enclaves(tenant).await?;
    let mut items = Vec::new();
    for keeper in call.server.keepers(tenant).await {
        // One that was made or removed at this moment is there or not.
        let Some(row) = rows.iter().find(|row| row.id == keeper.enclave) else {
            continue;
        };
        match summary(&keeper, row.created.0).await {
            Ok(summary) => items.push(summary),
            Err(Refusal::Gone) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(Json(List { items }).into_response())
}

/// `GET /v1/enclaves/{e}`
pub(super) async fn one(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let row = call
        .server
        .store
        .read()
        .await?
        .enclave(keeper.tenant, keeper.enclave)
        .await?;
    let row = row.ok_or(Refusal::NotFound("enclave"))?;
    let summary = summary(&keeper, row.created.0).await?;
    Ok((entity_tag(summary.version), Json(summary)).into_response())
}

/// `GET /v1/enclaves/{e}/file`
pub(super) async fn file(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    let (version, text) = keeper
        .look(|state| (state.file_version, state.enclave.text().to_owned()))
        .await?;
    Ok((entity_tag(version), [(CONTENT_TYPE, FILE_TYPE)], text).into_response())
}

/// `DELETE /v1/enclaves/{e}`
pub(super) async fn remove(call: Call) -> Answer {
    let keeper = call.keeper().await?;
    call.server.remove(call.tenant()?, &keeper, call.caller.name()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn summary(keeper: &Keeper, created: u64) -> Result<EnclaveSummary, Refusal> {
    let connected = count(keeper.presence.count());
    keeper
        .look(move |state| {
            let enclave = &state.enclave;
            EnclaveSummary {
                name: enclave.name().clone(),
                id: enclave.id().to_string(),
                version: state.file_version,
                revision: state.revision,
                members: count(enclave.members().count()),
                enrolled: count(enclave.enrolled().count()),
                connected,
                communities: count(enclave.file().communities.len()),
                created,
                root_hash: hex(&enclave.root_hash()),
            }
        })
        .await
}
