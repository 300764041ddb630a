//! `PUT /v1/enclaves/{e}`: takes an enclave file, or says what it would change.
//!
//! What would change is worked out first, under the version of the file that is there; the keeper then takes the new file for
//! that version alone. So what is answered is what was done, whoever else applied in between.

use axum::{Json, body::Body, response::IntoResponse as _};
use bytes::Bytes;
use coterie_api::v1::{self, Applied, ApplyQuery};
use coterie_control::{
    file::{self, EnclaveFile, reach},
    issue::{Changes, Plan},
};
use coterie_model::Name;
use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{IF_MATCH, IF_NONE_MATCH},
};

use super::{
    answer::{Answer, count, entity_tag},
    ask::{self, Asked, Call},
};
use crate::{
    clock,
    keeper::{Act, Keeper, Outcome},
    refusal::{Refusal, fault},
};

/// How often it is worked out anew what would change, where others apply at the same time.
const TRIES: u32 = 8;

/// `PUT /v1/enclaves/{e}`
pub(super) async fn apply(call: Call, Asked(query): Asked<ApplyQuery>, headers: HeaderMap, body: Body) -> Answer {
    let name = call.name("e", "enclave")?;
    let condition = Condition::of(&headers)?;
    let (text, file) = parsed(ask::read(body, v1::MAX_FILE).await?).await?;
    if file.enclave.name != name {
        return Err(Refusal::OtherEnclave(file.enclave.name.clone(), name).into());
    }
    let asked = Asking {
        call: &call,
        name: &name,
        text: &text,
        dry_run: query.dry_run,
        condition,
    };
    let mut file = file;
    for _ in 0..TRIES {
        let step;
        (file, step) = asked.attempt(file).await?;
        if let Some(applied) = step {
            let status = match applied.created && !applied.dry_run {
                true => StatusCode::CREATED,
                false => StatusCode::OK,
            };
            return Ok((status, entity_tag(applied.version), Json(applied)).into_response());
        }
    }
    Err(Refusal::Changed.into())
}

/// A file that is applied.
struct Asking<'a> {
    call: &'a Call,
    name: &'a Name,
    text: &'a str,
    dry_run: bool,
    condition: Condition,
}

impl Asking<'_> {
    /// Applies the file to what is there; `None` where somebody else was faster, and the caller does not mind.
    async fn attempt(&self, file: EnclaveFile) -> Result<(EnclaveFile, Option<Applied>), Refusal> {
        let tenant = self.call.tenant()?;
        match self.call.server.keeper(tenant, self.name).await {
            Some(keeper) => self.replace(&keeper, file).await,
            None => self.create(file).await,
        }
    }

    async fn create(&self, file: EnclaveFile) -> Result<(EnclaveFile, Option<Applied>), Refusal> {
        self.condition.check(None)?;
        let plan = Plan {
            changes: Changes {
                added_communities: file.communities.keys().cloned().collect(),
                added_members: file.members.keys().cloned().collect(),
                ..Changes::default()
            },
            before: reach::Topology::new(),
            after: file.topology(),
        };
        let tests = file.tests.len();
        if !self.dry_run {
            let tenant = self.call.tenant()?;
            let created = self
                .call
                .server
                .create(tenant, self.text, self.call.caller.name())
                .await;
            match created {
                Ok(_keeper) => {}
                // Somebody else made it at this moment: its keeper is there.
                Err(Refusal::Exists(_)) if !self.condition.is_new => return Ok((file, None)),
                Err(Refusal::Exists(_)) => return Err(Refusal::Changed),
                Err(refusal) => return Err(refusal),
            }
        }
        let applied = applied(plan, tests).await?;
        let applied = Applied {
            version: if self.dry_run { 0 } else { 1 },
            dry_run: self.dry_run,
            created: true,
            changed: true,
            ..applied
        };
        Ok((file, Some(applied)))
    }

    async fn replace(&self, keeper: &Keeper, file: EnclaveFile) -> Result<(EnclaveFile, Option<Applied>), Refusal> {
        let (tests, text) = (file.tests.len(), self.text.to_owned());
        let seen = keeper
            .look(move |state| {
                let plan = state.enclave.plan(&file, clock::now());
                (state.file_version, state.enclave.text() != text, plan, file)
            })
            .await;
        let (version, changed, plan, file) = seen?;
        self.condition.check(Some(version))?;
        let mut plan = plan?;
        if changed && !self.dry_run {
            let act = Act::Apply {
                text: self.text.to_owned(),
                expected: Some(version),
            };
            match self.call.act(keeper, act).await {
                Ok(Outcome::Applied(changes)) => plan.changes = *changes,
                Ok(_) => return Err(Refusal::Gone),
                Err(Refusal::Changed) if !self.condition.has_versions() => return Ok((file, None)),
                Err(refusal) => return Err(refusal),
            }
        }
        let applied = applied(plan, tests).await?;
        let applied = Applied {
            version: if changed && !self.dry_run { version + 1 } else { version },
            dry_run: self.dry_run,
            created: false,
            changed,
            ..applied
        };
        Ok((file, Some(applied)))
    }
}

/// Reads the file where it stops nobody else: a large one takes a while.
async fn parsed(body: Bytes) -> Result<(String, EnclaveFile), Refusal> {
    let parsed = tokio::task::spawn_blocking(move || {
        let file = file::parse_bytes(&body)?;
        // What was parsed is UTF-8.
        Ok((String::from_utf8_lossy(&body).into_owned(), file))
    });
    let parsed: Result<_, file::Diagnostics> = parsed.await.map_err(|_panicked| Refusal::Gone)?;
    parsed.map_err(|faults| Refusal::File(faults.iter().map(fault).collect()))
}

/// What a plan changes, in the contract's words; who reaches whom is compared where it stops nobody else.
async fn applied(plan: Plan, tests: usize) -> Result<Applied, Refusal> {
    let Plan { changes, before, after } = plan;
    let reach = tokio::task::spawn_blocking(move || reach::changes(&before, &after, v1::MAX_REACH_ROWS));
    let reach = reach.await.map_err(|_panicked| Refusal::Gone)?;
    Ok(Applied {
        version: 0,
        dry_run: false,
        created: false,
        changed: false,
        communities_added: changes.added_communities.into_iter().collect(),
        communities_removed: changes.removed_communities.into_iter().collect(),
        communities_rolled: changes.rolled.into_iter().collect(),
        members_added: changes.added_members.into_iter().collect(),
        members_revoked: changes.revoked.into_iter().collect(),
        reach: reach.first.into_iter().map(told).collect(),
        reach_total: reach.total,
        tests_passed: count(tests),
    })
}

fn told(change: reach::ReachChange) -> v1::ReachChange {
    v1::ReachChange {
        from: change.from,
        to: change.to,
        before: change.before,
        after: change.after,
    }
}

/// What is to be there already (RFC 9110, section 13).
#[derive(Debug, Default, PartialEq, Eq)]
struct Condition {
    /// `If-None-Match: *`: nothing.
    is_new: bool,
    /// `If-Match: *`: something.
    is_there: bool,
    /// `If-Match` with versions: one of these.
    versions: Option<Vec<u64>>,
}

impl Condition {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut this = Self::default();
        if let Some(text) = text(headers, &IF_NONE_MATCH)? {
            if text != "*" {
                return Err(Refusal::BadRequest("If-None-Match is `*` here".to_owned()));
            }
            this.is_new = true;
        }
        match text(headers, &IF_MATCH)?.as_deref() {
            None => {}
            Some("*") => this.is_there = true,
            Some(text) => {
                let versions: Option<Vec<_>> = text.split(',').map(|tag| version(tag.trim())).collect();
                let words = "If-Match is a version in quotes, or `*`";
                let versions = versions.ok_or_else(|| Refusal::BadRequest(words.to_owned()))?;
                this.versions = Some(versions.into_iter().flatten().collect());
            }
        }
        Ok(this)
    }

    fn has_versions(&self) -> bool {
        self.versions.is_some()
    }

    /// Compares it with the version that is there.
    fn check(&self, found: Option<u64>) -> Result<(), Refusal> {
        let is_met = match found {
            Some(found) => !self.is_new && self.versions.as_ref().is_none_or(|wanted| wanted.contains(&found)),
            None => !self.is_there && self.versions.is_none(),
        };
        if is_met { Ok(()) } else { Err(Refusal::Changed) }
    }
}

/// A header's lines as one.
fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Refusal> {
    let lines = headers.get_all(name).iter().map(|line| line.to_str().map(str::trim));
    let lines: Result<Vec<_>, _> = lines.collect();
    let lines = lines.map_err(|_no_text| Refusal::BadRequest(format!("{name} is no text")))?;
    Ok((!lines.is_empty()).then(|| lines.join(",")))
}

/// The version of an entity tag, if it is one of ours; `None` for what is no entity tag.
fn version(tag: &str) -> Option<Option<u64>> {
    // A weak tag matches nothing that is compared strongly.
    let (weak, tag) = match tag.strip_prefix("W/") {
        Some(tag) => (true, tag),
        None => (false, tag),
    };
    let inner = tag
        .strip_prefix('"')?
        .strip_suffix('"')
        .filter(|inner| !inner.contains('"'))?;
    let is_ours = !weak && !inner.is_empty() && inner.bytes().all(|digit| digit.is_ascii_digit());
    Some(inner.parse().ok().filter(|_| is_ours))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn condition(headers: &[(HeaderName, &'static str)]) -> Result<Condition, Refusal> {
        let mut lines = HeaderMap::new();
        for (name, value) in headers {
            lines.append(name, HeaderValue::from_static(value));
        }
        Condition::of(&lines)
    }

    #[test]
    fn conditions_are_those_of_http() {
        let met = |headers: &[(HeaderName, &'static str)], found| condition(headers).unwrap().check(found).is_ok();
        assert!(met(&[], None) && met(&[], Some(3)));
        assert!(met(&[(IF_NONE_MATCH, "*")], None) && !met(&[(IF_NONE_MATCH, "*")], Some(3)));
        assert!(!met(&[(IF_MATCH, "*")], None) && met(&[(IF_MATCH, "*")], Some(3)));
        assert!(met(&[(IF_MATCH, "\"3\"")], Some(3)) && !met(&[(IF_MATCH, "\"3\"")], Some(4)));
        assert!(!met(&[(IF_MATCH, "\"3\"")], None));
        assert!(met(&[(IF_MATCH, "\"2\", \"3\"")], Some(3)));
        assert!(
            met(&[(IF_MATCH, "\"2\""), (IF_MATCH, "\"3\"")], Some(2)),
            "in two lines"
        );
        for never in ["W/\"3\"", "\"abc\"", "\"+3\"", "\"\""] {
            assert!(!met(&[(IF_MATCH, never)], Some(3)), "{never}");
        }
        for malformed in ["3", "\"3", "", "\"3\" \"4\"", "\"3\","] {
            assert!(condition(&[(IF_MATCH, malformed)]).is_err(), "{malformed}");
        }
        assert!(condition(&[(IF_NONE_MATCH, "\"3\"")]).is_err());
    }
}
