//! Killed at every point at which the server writes: what was acknowledged is there, and nothing is there by half.
//!
//! The build for tests knows its write points (`coterie-store`, feature `crash-points`): with `COTERIE_CRASH_AT=n` the process
//! kills itself at the n-th. The scenario below is run with n = 1, 2, 3 … until it comes to its end unharmed.
//! `COTERIE_CRASH_STRIDE` says how many points are passed over between two that are tried (CI tries a few, `1` tries each).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that tries many things says how many"
)]

use std::collections::BTreeSet;
use std::process::Command;

use coterie_api::v1;
use coterie_control::enrol::Token;

use crate::site::{FILE, Machine, Person, Site, name};

/// What the server acknowledged.
#[derive(Default)]
struct Known {
    owner: Option<String>,
    /// Steps that were acknowledged, the last one last.
    done: Vec<&'static str>,
    token: Option<Token>,
    enrolled: BTreeSet<&'static str>,
    gone: BTreeSet<&'static str>,
}

const STEPS: [&str; 13] = [
    "tenant",
    "apply",
    "token",
    "enrol web-1",
    "enrol web-2",
    "isolate",
    "release",
    "revoke",
    "change",
    "rotate",
    "ticket",
    "end",
    "principal",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_nothing_is_half_done() {
    let stride: u64 = std::env::var("COTERIE_CRASH_STRIDE").map_or(23, |n| n.parse().unwrap());
    let mut tried = 0;
    let mut point = 1 + u64::from(std::process::id()) % stride;
    loop {
        let mut site = Site::made();
        site.environment = vec![("COTERIE_CRASH_AT".to_owned(), point.to_string())];
        let mut known = Known::default();
        let unharmed = match site.try_up() {
            Some(()) => scenario(&site, &mut known).await,
            None => false,
        };
        if unharmed {
            site.kill();
        }
        site.environment.clear();
        site.up();
        verify(&site, &known, point).await;
        site.stop();
        let check = Command::new(env!("CARGO_BIN_EXE_coterie-server"))
            .args(["check", "--directory"])
            .arg(site.path())
            .output()
            .unwrap();
        assert!(
            check.status.success(),
            "point {point}, after {:?}: {check:?}",
            known.done
        );
        if unharmed {
            break;
        }
        tried += 1;
        point += stride;
    }
    println!("killed at {tried} write points, of {point} that the scenario has or fewer");
    assert!(tried >= 3);
}

/// Does the steps until one is not acknowledged; whether all were.
async fn scenario(site: &Site, known: &mut Known) -> bool {
    for step in STEPS {
        if take(site, known, step).await.is_none() {
            return false;
        }
        known.done.push(step);
    }
    true
}

async fn take(site: &Site, known: &mut Known, step: &'static str) -> Option<()> {
    if step == "tenant" {
        let operator = site.try_person(&site.operator).await?;
        let new = v1::NewTenant {
            name: name("acme"),
            owner: None,
        };
        let made: v1::TenantMade = operator.post("/v1/tenants", &new).await.ok()?;
        known.owner = Some(made.owner.key.expose().to_owned());
        return Some(());
    }
    let owner = site.try_person(known.owner.as_ref().unwrap()).await?;
    let member = |what: &str, of: &str| format!("/v1/enclaves/shop/members/{of}/{what}");
    match step {
        "apply" => drop(owner.apply("shop", FILE).await.ok()?),
        "token" => known.token = Some(owner.try_token("web", 2).await?),
        "enrol web-1" | "enrol web-2" => {
            let named = &step["enrol ".len()..];
            let token = known.token.as_ref().unwrap();
            Machine::new(named, token).enrol(token).await?;
            known.enrolled.insert(named);
        }
        "isolate" | "release" => {
            let _cut: v1::CutOff = owner.post(&member(step, "web-1"), &()).await.ok()?;
        }
        "revoke" => {
            let _cut: v1::CutOff = owner.post(&member(step, "web-2"), &()).await.ok()?;
            known.enrolled.remove("web-2");
            known.gone.insert("web-2");
        }
        "change" => drop(owner.apply("shop", &changed()).await.ok()?),
        "rotate" => {
            let body = v1::RollRequest {
                kind: v1::RollKind::Scheduled,
            };
            let _rolled: v1::RolledKey = owner
                .post("/v1/enclaves/shop/communities/db/rotate-key", &body)
                .await
                .ok()?;
        }
        "ticket" => {
            let token = owner.try_token("app", 1).await?;
            Machine::new("app-1", &token).enrol(&token).await?;
            known.enrolled.insert("app-1");
        }
        "end" => {
            drop(owner.delete("/v1/enclaves/shop/members/app-1").await.ok()?);
            known.enrolled.remove("app-1");
            known.gone.insert("app-1");
        }
        "principal" => {
            let new = v1::NewPrincipal {
                name: name("second"),
                role: v1::Role::Admin,
                ttl_seconds: None,
            };
            let _made: v1::PrincipalMade = owner.post("/v1/principals", &new).await.ok()?;
        }
        other => panic!("no step {other}"),
    }
    Some(())
}

fn changed() -> String {
    FILE.replace("[community.db]", "[community.db]\n[community.log]")
}

/// What was acknowledged is there; what was not is there whole or not at all.
async fn verify(site: &Site, known: &Known, point: u64) {
    let at = format!("point {point}, after {:?}", known.done);
    let Some(owner) = &known.owner else { return };
    let owner = site.person(owner).await;
    let has = |step: &str| known.done.contains(&step);
    if !has("apply") {
        return;
    }
    let members: Vec<v1::Member> = owner.members().await;
    let is = |named: &str, state: v1::MemberState| {
        members
            .iter()
            .any(|member| member.name.as_str() == named && member.state == state)
    };
    let is_there = |named: &str| {
        members
            .iter()
            .any(|m| m.name.as_str() == named && m.member_id.is_some())
    };
    for named in &known.enrolled {
        // The step after the last one acknowledged may have happened too.
        let next = STEPS.get(known.done.len()).copied().unwrap_or_default();
        let may_be_gone = (next == "revoke" && *named == "web-2") || (next == "end" && *named == "app-1");
        assert!(is_there(named) || may_be_gone, "{at}: {named} is lost");
    }
    for named in &known.gone {
        assert!(!is_there(named), "{at}: {named} is back");
    }
    if has("isolate") && known.done.last() == Some(&"release") {
        assert!(!is("web-1", v1::MemberState::Isolated), "{at}: the release is lost");
    }
    if known.done.last() == Some(&"isolate") && !is("web-1", v1::MemberState::Isolated) {
        // Unless the release that was not acknowledged happened.
        assert!(audited(&owner, "member.release").await, "{at}: the isolation is lost");
    }
    if has("change") {
        let communities: v1::List<v1::Community> = owner.get("/v1/enclaves/shop/communities").await.unwrap();
        assert!(
            communities.items.iter().any(|c| c.name.as_str() == "log"),
            "{at}: the file is lost"
        );
    }
    if has("principal") {
        let principals: v1::List<v1::Principal> = owner.get("/v1/principals").await.unwrap();
        assert!(
            principals.items.iter().any(|p| p.name.as_str() == "second"),
            "{at}: the principal is lost"
        );
    }
    tokens_fit_members(&owner, &at).await;
}

/// Each use of a token made a member, whose making the audit log tells; and nobody is a member without.
async fn tokens_fit_members(owner: &Person, at: &str) {
    let tokens: v1::List<v1::Token> = owner.get("/v1/enclaves/shop/tokens").await.unwrap();
    let mut uses = 0;
    for token in tokens.items {
        let whole: v1::Token = owner
            .get(&format!("/v1/enclaves/shop/tokens/{}", token.id))
            .await
            .unwrap();
        assert_eq!(
            u64::from(whole.uses_made),
            u64::try_from(whole.uses.len()).unwrap(),
            "{at}"
        );
        uses += whole.uses.len();
    }
    let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    let count = |action: &str| page.entries.iter().filter(|entry| entry.action == action).count();
    assert_eq!(count("member.enrol"), uses, "{at}");
    let left = count("member.revoke") + count("member.end");
    let members = owner.members().await;
    let enrolled = members.iter().filter(|member| member.member_id.is_some()).count();
    assert_eq!(enrolled, uses - left, "{at}");
}

async fn audited(owner: &Person, action: &str) -> bool {
    let page: v1::AuditPage = owner.get("/v1/audit?after=0&limit=1000").await.unwrap();
    page.entries.iter().any(|entry| entry.action == action)
}
