//! `GET /v1/enclaves/{e}/explain`: why one member reaches another, by policy and by what both ends have installed.

use axum::{Json, response::IntoResponse as _};
use coterie_api::v1::{Considered, ExplainQuery, Explained, Installed, Policy};
use coterie_control::file::reach::{self, Explanation, ReachError};
use coterie_model::Name;

use super::{
    answer::Answer,
    ask::{Asked, Call},
};
use crate::{keeper::Keeper, refusal::Refusal};

/// `GET /v1/enclaves/{e}/explain`
pub(super) async fn explain(call: Call, Asked(query): Asked<ExplainQuery>) -> Answer {
    let keeper = call.keeper().await?;
    let (from, to) = (query.from.clone(), query.to.clone());
    let policy = keeper
        .look(move |state| reach::explain(&state.enclave.topology(), &from, &to))
        .await?;
    let policy = policy.map_err(|error| match error {
        ReachError::UnknownMember { .. } => Refusal::NotFound("member"),
        ReachError::SameMember { .. } => Refusal::BadRequest(error.to_string()),
    })?;
    let (from, to) = tokio::join!(
        installed(&keeper, &query.from, &query.to),
        installed(&keeper, &query.to, &query.from)
    );
    let answer = Explained {
        policy: told(policy),
        from,
        to,
    };
    Ok(Json(answer).into_response())
}

/// What a member says of the way to another.
async fn installed(keeper: &Keeper, member: &Name, other: &Name) -> Installed {
    match keeper.presence.ask(member, other.as_str()).await {
        Ok(explanation) => Installed::Told(explanation),
        Err(failure) => Installed::Untold(failure),
    }
}

fn told(explanation: Explanation) -> Policy {
    let considered = |considered: reach::Considered| Considered {
        community: considered.community,
        priority: considered.priority,
        members: considered.members,
        verdict: considered.verdict.into(),
    };
    Policy {
        from: explanation.from,
        to: explanation.to,
        chosen: explanation.chosen,
        shared: explanation.shared.into_iter().map(considered).collect(),
        from_communities: explanation.from_communities,
        to_communities: explanation.to_communities,
    }
}
